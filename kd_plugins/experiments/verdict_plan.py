"""Which trainings a verdict needs, and whether they can be compared."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mmengine.config import Config

from kd_plugins.experiments.alone import Alone, another_network, differences, student_alone
from kd_plugins.experiments.environment import hardware
from kd_plugins.experiments.inspected import Inspected, inspect_config, keep, kept
from kd_plugins.experiments.logs import read_training
from kd_plugins.experiments.results import (
    Failure,
    Result,
    Run,
    check_run,
    hash_of_all_seeds,
    load_config,
    other_versions,
)
from kd_plugins.experiments.verdict import Side

#: What the folders of students alone, and their config files, begin with.
ALONE = 'alone'


@dataclass
class Contender:
    """A config with the runs that it takes.

    Args:
        name: What to call it.
        cfg: The config, with what was overridden.
        runs: One a seed, in the order of the seeds.
        notes: What is worth knowing of the comparison.
    """

    name: str
    cfg: Config
    runs: list[Run]
    notes: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Where its runs have theirs."""
        return Path(self.runs[0].work_dir).parent


@dataclass
class Plan:
    """The student alone, the distillations, and whether the former was made from one of these."""

    alone: Contender
    distilled: list[Contender]
    made: bool

    @property
    def runs(self) -> list[Run]:
        """All runs, whole pairs first: an interruption leaves pairs, and not one side of all."""
        seeds = zip(*(each.runs for each in (self.alone, *self.distilled)), strict=True)
        return [run for of_seed in seeds for run in of_seed]

    @property
    def identity(self) -> str:
        """A hash of all configs, whichever the seeds."""
        hashes = [hash_of_all_seeds(each.runs[0]) for each in (self.alone, *self.distilled)]
        return hashlib.sha256('\n'.join(hashes).encode()).hexdigest()[:16]


def plan(
    configs: Sequence[Path],
    seeds: Sequence[int],
    work_dir: Path,
    alone: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Plan:
    """Return the runs that a verdict needs.

    The config of a student alone that is made is written to the work directory.

    Args:
        configs: The distillations' configs.
        seeds: Of every pair.
        work_dir: Where the runs go: each to ``NAME/SEED``, as those of ``tools/repeat.py``.
        alone: The config of the student alone; None to make it from the first.
        options: What to override in all configs; below ``model`` in the
            distillations only where ``alone`` is given.

    Raises:
        ValueError: If two configs have one name, differ in data or steps, or have no
            student alone in common; the message names the config key.
        FileNotFoundError: If a config is not there.
    """
    options = dict(options or {})
    configs_of_all = [*configs, *([alone] if alone else [])]
    names = [config.stem for config in configs_of_all]
    if len(set(names)) < len(names):
        raise ValueError(
            f'{" ".join(map(str, configs_of_all))}: two configs have one name, and would share a '
            'directory: give each once, or another file name.'
        )
    distilled = [_contender(config, seeds, work_dir, options) for config in configs]
    first = distilled[0]
    for other in distilled[1:]:
        _refuse_unlike(first, other)
    if alone is None:
        made = _common_student(distilled)
        return Plan(_write(made, first.cfg, seeds, work_dir), distilled, True)
    own = {key: value for key, value in options.items() if key.split('.')[0] != 'model'}
    given = _contender(alone, seeds, work_dir, own)
    if 'distiller' in given.cfg.model:
        raise ValueError(
            f'--alone {str(alone)!r} is a distillation itself: give the config of the student '
            'alone, or leave it out to have it made from the distillation.'
        )
    for each in distilled:
        _refuse_unlike(given, each)
        each.notes += [
            f'It differs from the student alone in its training: {difference}'
            for difference in differences(given.cfg, each.cfg)
        ]
        if difference := another_network(given.cfg, each.cfg):
            each.notes.append(
                f'It differs from the student alone in its network, so that the gain may be that '
                f'of the network: {difference}'
            )
    return Plan(given, distilled, False)


def _contender(
    config: Path, seeds: Sequence[int], work_dir: Path, options: Mapping[str, Any]
) -> Contender:
    runs = [
        Run(config.stem, str(config), seed, str(work_dir / config.stem / str(seed)), options)
        for seed in seeds
    ]
    cfg = load_config(runs[0])
    check_run(cfg)
    return Contender(config.stem, cfg, runs)


def _refuse_unlike(first: Contender, second: Contender) -> None:
    for difference in differences(first.cfg, second.cfg):
        if difference.of != 'training':
            raise ValueError(
                f'{first.name} and {second.name} differ in their {difference.of}, so the '
                f'difference of their figures would not be that of the method: {difference}; '
                'make it the same in both.'
            )


def _common_student(distilled: Sequence[Contender]) -> Alone:
    first, *others = [student_alone(each.cfg) for each in distilled]
    for each, other in zip(distilled[1:], others, strict=True):
        for difference in differences(first.cfg, other.cfg, of_students=True):
            raise ValueError(
                f'the students alone of {distilled[0].name} and {each.name} are not the same: '
                f'{difference}; give the one to compare both with by --alone.'
            )
    notes = dict.fromkeys(note for each in (first, *others) for note in each.notes)
    return Alone(first.cfg, list(notes))


def _write(made: Alone, source: Config, seeds: Sequence[int], work_dir: Path) -> Contender:
    work_dir.mkdir(parents=True, exist_ok=True)
    # Another verdict may write its own at the same moment.
    with TemporaryDirectory(dir=work_dir) as folder:
        path = Path(folder, f'{ALONE}.py')
        Config(_readable(made.cfg.to_dict())).dump(path)
        # Students of several configs may lie side by side.
        identity = hash_of_all_seeds(Run(ALONE, str(path), 0, ''))
        name = f'{ALONE}-{identity[:8]}'
        path = path.rename(work_dir / f'{name}.py')
    runs = [Run(name, str(path), seed, str(work_dir / name / str(seed))) for seed in seeds]
    note = f'Made from {Path(source.filename or "the config").name}'
    return Contender(name, load_config(runs[0]), runs, [', '.join([note, *made.notes])])


class _Number(float):
    """An infinity, or what is no number, as a config file can say it."""

    def __repr__(self) -> str:
        return f"float('{float(self)}')"


def _readable(value: Any) -> Any:
    """Return values that Python reads again as mmengine writes them."""
    if isinstance(value, dict):
        return {key: _readable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_readable, value))
    return _Number(value) if isinstance(value, float) and not math.isfinite(value) else value


def inspect_all(whole: Plan, say: Any = lambda name: None) -> dict[str, Inspected]:
    """Look at every config before anything is trained.

    Args:
        whole: The plan.
        say: Called with the name of each before it is looked at.

    Raises:
        ValueError: If a config cannot train, or parts of the student learn from the
            distillation only.
    """
    found = {}
    for each in (*whole.distilled, whole.alone):
        seen = kept(each.cfg, each.folder)
        if seen is None or seen.errors:
            say(each.name)
            seen = inspect_config(each.cfg)
            keep(seen, each.folder)
        if seen.errors:
            # What is wrong with the student alone that was made was right in the distillation.
            made = whole.made and each is whole.alone
            raise ValueError(
                f'a student alone cannot be made from {whole.distilled[0].name}: '
                f'{seen.errors[0]} Give its config by --alone.'
                if made
                else f'{each.name}: {seen.errors[0]}'
            )
        found[each.name] = seen
    if whole.made:
        taught = set(found[whole.distilled[0].name].unreached)
        for name in found[whole.alone.name].unreached:
            if name not in taught:
                raise ValueError(
                    f'a student alone cannot be made from {whole.distilled[0].name}: {name} learns '
                    'from the distillation only, and would stay as it was initialised: give the '
                    'config of the student alone by --alone.'
                )
    return found


def side(
    each: Contender,
    results: Mapping[Run, Result],
    failures: Mapping[Run, Failure],
    seen: Inspected | None = None,
) -> Side:
    """Return what there is of a contender after its trainings.

    Args:
        each: The contender.
        results, failures: Of all runs.
        seen: What was seen of it before.
    """
    done = {run.seed: results[run] for run in each.runs if run in results}
    trainings = {}
    for run in each.runs:
        if run in results:
            try:
                trainings[run.seed] = read_training(Path(run.work_dir), each.name)
            except FileNotFoundError:
                continue  # of a training without a LocalVisBackend
    made = Side(
        each.name,
        each.runs[0].config,
        hash_of_all_seeds(each.runs[0]),
        done,
        trainings,
        {run.seed: failures[run].reason for run in each.runs if run in failures},
        notes=[*each.notes, *_kept_from_elsewhere(done), *_warnings(seen)],
    )
    return replace(made, ratios=seen.ratios, teacher=seen.teacher) if seen else made


def _kept_from_elsewhere(done: Mapping[int, Result]) -> Iterator[str]:
    """Say which finished runs are of other versions, or of another machine, than now."""
    told: dict[str, list[int]] = {}
    here = hardware()
    for seed, result in done.items():
        if unlike := other_versions(result):
            told.setdefault(f'trained with {"; ".join(unlike)}', []).append(seed)
        if result.hardware and result.hardware != here:
            said = f'trained on {result.hardware}, so that times are not to be compared'
            told.setdefault(said, []).append(seed)
    for said, seeds in told.items():
        yield f'Kept: seed {", ".join(map(str, seeds))} was {said}'


def _warnings(seen: Inspected | None) -> Iterator[str]:
    for warning in seen.warnings if seen else ():
        yield f'tools/check.py warns: {warning.rstrip(".")}'
