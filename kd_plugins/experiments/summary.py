"""Means and deviations over seeds, and what is published beside them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from kd_plugins.experiments.environment import hardware, versions
from kd_plugins.experiments.metrics import Headline
from kd_plugins.experiments.results import Failure, Result, Run, read_json

#: What is added up over seeds, as a result calls it.
COLUMNS = ('last', 'best', 'seconds')


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Return mean and sample deviation, which a single value has not."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return dict(mean=statistics.mean(values), deviation=deviation)


def said(values: Sequence[float]) -> str:
    """Say mean and sample deviation, ``96.20 ± 0.31``, or the one value, ``96.20``."""
    deviation = f' ± {statistics.stdev(values):.2f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):.2f}{deviation}'


def over_seeds(number: int) -> str:
    """Say what figures of so many seeds are, for a title."""
    return f'mean and deviation over {number} seeds' if number > 1 else 'of one seed'


def gain(values: Sequence[float], reference: Sequence[float]) -> str:
    """Say the difference of two means, and "?" within two standard errors of 0 or for one value."""
    difference = statistics.mean(values) - statistics.mean(reference)
    if len(values) < 2 or len(reference) < 2:
        return f'{difference:+.2f} ?'
    error = (
        statistics.variance(values) / len(values) + statistics.variance(reference) / len(reference)
    ) ** 0.5
    return f'{difference:+.2f}' + (' ?' if abs(difference) < 2 * error else '')


def listed_figure(config: Path, headline: Headline) -> dict[str, Any] | None:
    """Return the figure that the metafile beside a config lists for it, and whose it is.

    Args:
        config: The config file, whose name without ``.py`` the metafile has.
        headline: The metric to look for.

    Returns:
        ``figure`` in percent and ``source``; None if there is none.
    """
    path = config.parent / 'metafile.yml'
    rows = yaml.safe_load(path.read_text(encoding='utf-8'))['Models'] if path.is_file() else []
    for row in rows:
        for result in (row.get('Results') or []) if row['Name'] == config.stem else ():
            figure = (result.get('Metrics') or {}).get(headline.metafile)
            if figure is not None:
                source = (row.get('Metadata') or {}).get('Source of results', 'kd_plugins')
                return dict(figure=figure, source=source)
    return None


def summarise(
    config: Path,
    options: Mapping[str, Any],
    identity: str,
    results: Mapping[Run, Result],
    failures: Mapping[Run, Failure],
) -> dict[str, Any]:
    """Return all that there is to say about a config that was trained with several seeds.

    Args:
        config: The config file.
        options: What was overridden in it.
        identity: Its config hash when the training was asked for.
        results: Of the seeds that are finished, at least one.
        failures: Of the others.
    """
    kept = list(results.values())
    headline = kept[0].headline
    return dict(
        config=str(config),
        config_hash=identity,
        cfg_options=dict(options),
        seeds=[
            dict(
                seed=run.seed,
                **{column: getattr(result, column) for column in COLUMNS},
                accuracy=result.accuracy,
                steps=result.steps,
            )
            for run, result in results.items()
        ],
        failed=[dict(seed=run.seed, reason=f.reason) for run, f in failures.items()],
        **{column: spread([getattr(result, column) for result in kept]) for column in COLUMNS},
        metric=headline.name,
        listed=listed_figure(config, headline),
        parameters=kept[0].parameters,
        hardware=_all_of([result.hardware or hardware() for result in kept]),
        versions={
            package: _all_of([r.versions[package] for r in kept if package in r.versions])
            for package in sorted({package for r in kept for package in r.versions})
        }
        or versions(),
    )


def set_aside(path: Path, identity: str) -> Path | None:
    """Give the summary of another config at this path a name of its own.

    Args:
        path: Where the next summary goes.
        identity: The config hash of that one.

    Returns:
        Where the other summary is now; None if there was none.
    """
    other = read_json(path).get('config_hash')
    if not other or other == identity:
        return None
    return path.rename(path.with_name(f'{path.stem}-{other}{path.suffix}'))


def _all_of(values: Sequence[str]) -> str:
    """Name what is not the same for every seed one after the other."""
    return ' or '.join(dict.fromkeys(values))
