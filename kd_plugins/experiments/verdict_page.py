"""A verdict as a page of HTML that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from kd_plugins.experiments import plot
from kd_plugins.experiments.logs import Training
from kd_plugins.experiments.timing import duration

_DECISIONS = {'GO': 'go', 'NO-GO': 'nogo', 'INCONCLUSIVE': 'open'}


def page(verdict: Mapping[str, Any], curves: Sequence[Training]) -> str:
    """Return the page.

    Args:
        verdict: What :func:`kd_plugins.experiments.verdict.conclude` gives, with
            ``hardware`` and ``versions`` beside it.
        curves: What the student alone and every config have logged, each as the mean
            over its seeds.
    """
    configs = verdict['configs']
    compared = [config for config in configs if 'mean' in config]
    panels = plot.pictures(curves) if curves else []
    if compared:
        height = 1.1 + 0.45 * len(compared)
        panels.insert(
            0, plot.picture(lambda axes: _draw_pairs(axes, compared, verdict), -1, (5.4, height))
        )
    return _PAGE.format(
        style=plot.STYLE,
        summary=_table(
            ('', 'verdict', 'gain', '95 % interval' if verdict['alpha'] == 0.05 else 'interval',
             'p', 'pairs', 'time', 'memory', 'teacher'),
            [_row(config, verdict) for config in configs],
        ),
        rule=escape(verdict['rule']),
        details=''.join(_details(config, verdict) for config in configs),
        alone=_alone(verdict),
        legend=_legend(curves),
        pictures='\n'.join(panels),
        foot=escape(
            f'On {verdict.get("hardware", "?")}; torch '
            f'{verdict.get("versions", {}).get("torch", "?")}, kd_plugins '
            f'{verdict.get("versions", {}).get("kd_plugins", "?")}. Runs that shared a machine '
            'slow each other: times are to compare, not to plan by.'
        ),
    )  # fmt: skip


def figures(config: Mapping[str, Any], verdict: Mapping[str, Any]) -> list[str]:
    """Return what a table says of a config: the cells of :func:`page`'s first one."""
    if 'mean' not in config:
        return [config['name'], config['decision'], *[''] * 7]
    cost, interval, p = config['cost'], config['interval'], config['p_adjusted']
    memory = cost['memory_mib'] and cost['memory_alone_mib']
    taught = config['teacher'].get(verdict['metric'])
    scale = 1.0 if verdict['label'] == 'top-1' else 100.0
    return [
        config['name'],
        config['decision'],
        f'{config["mean"]:+.2f}',
        'none' if interval is None else f'{interval[0]:+.2f} to {interval[1]:+.2f}',
        '' if p is None else f'{p:.2g}',
        str(len(config['pairs'])),
        f'x {cost["times"]:.2f}' if cost['times'] else '',
        f'x {cost["memory_mib"] / cost["memory_alone_mib"]:.2f}' if memory else '',
        '' if taught is None else f'{scale * taught:.2f}',
    ]


def _row(config: Mapping[str, Any], verdict: Mapping[str, Any]) -> list[str]:
    cells = [escape(cell) for cell in figures(config, verdict)]
    cells[1] = f'<b class="{_DECISIONS[config["decision"]]}">{cells[1]}</b>'
    return cells


def _details(config: Mapping[str, Any], verdict: Mapping[str, Any]) -> str:
    parts = [f'<h2>{escape(config["name"])}</h2>', f'<p>{escape(config["says"])}</p>']
    if config.get('validation_error') is not None:
        parts.append(
            '<p>Another validation set of as many pictures may move the gain by up to '
            f'{config["validation_error"]:.2f} points, which the interval does not hold and more '
            'seeds do not mend.</p>'
        )
    for reason in config.get('reasons', ()):
        parts.append(
            f'<p class="reason">{escape(reason["what"])} <i>{escape(reason["change"])}</i></p>'
        )
    parts += [f'<p>{escape(note)}.</p>' for note in config['notes']]
    parts += [
        f'<p class="reason">Seed {failed["seed"]} failed: {escape(failed["reason"])}</p>'
        for failed in config['failed']
    ]
    if config.get('pairs'):
        rows = [
            [str(pair['seed']), *(f'{pair[key]:.2f}' for key in ('alone', 'distilled')),
             f'{pair["difference"]:+.2f}', f'{pair["best_alone"]:.2f}',
             f'{pair["best_distilled"]:.2f}']
            for pair in config['pairs']
        ]  # fmt: skip
        head = ('seed', 'alone', 'distilled', 'difference', 'best alone', 'best distilled')
        cost = config['cost']
        parts.append(_table(head, rows))
        said = f'{duration(cost["seconds"])} a run, alone {duration(cost["seconds_alone"])}'
        if cost['teacher_share'] is not None:
            said += f'; the teacher takes {100 * cost["teacher_share"]:.0f} % of a logged iteration'
        if cost['memory_mib'] and cost['memory_alone_mib']:
            said += (
                f'; peak memory {cost["memory_mib"]:,.0f} MiB, alone '
                f'{cost["memory_alone_mib"]:,.0f} MiB'
            )
        parts.append(f'<p>{said}.</p>')
    return ''.join(parts)


def _alone(verdict: Mapping[str, Any]) -> str:
    alone = verdict['alone']
    said = [f'Alone: {escape(alone["config"])}.', *(f'{escape(n)}.' for n in alone['notes'])]
    said += [f'Seed {f["seed"]} failed: {escape(f["reason"])}' for f in alone['failed']]
    return f'<p>{" ".join(said)}</p>'


def _draw_pairs(
    axes: Any, configs: Sequence[Mapping[str, Any]], verdict: Mapping[str, Any]
) -> None:
    """Draw every difference, its mean and its interval, one line a config."""
    for i, config in enumerate(configs):
        colour = plot.COLOURS[(i + 1) % len(plot.COLOURS)]
        low, high = config['interval'] or (config['mean'], config['mean'])
        axes.plot([low, high], [i, i], color=colour, linewidth=2)
        axes.plot([config['mean']], [i], 'D', color=colour, markersize=6)
        points = [pair['difference'] for pair in config['pairs']]
        axes.plot(points, [i + 0.18] * len(points), 'o', color=colour, alpha=0.6, markersize=4)
    axes.axvline(verdict['worth'], color='black', linestyle=':', linewidth=1)
    axes.set_yticks(range(len(configs)), [plot.plain(config['name']) for config in configs])
    axes.tick_params(axis='y', labelsize=8)
    axes.set_ylim(len(configs) - 0.5, -0.5)
    axes.set_title(f'gain in points of {verdict["label"]}', fontsize=10, loc='left')
    axes.grid(alpha=0.3, axis='x')
    axes.spines[['top', 'right']].set_visible(False)


def _legend(curves: Sequence[Training]) -> str:
    return ' '.join(
        f'<span style="color:{plot.COLOURS[i % len(plot.COLOURS)]}">&#9644;</span> '
        f'{escape(training.name)}'
        for i, training in enumerate(curves)
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = ''.join(f'<th>{escape(name)}</th>' for name in head)
    body = ''.join(f'<tr>{"".join(f"<td>{cell}</td>" for cell in row)}</tr>' for row in rows)
    return f'<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>'


_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Does it help?</title>
<style>
{style}.go {{ color: #00704f }} .nogo {{ color: #b34000 }} .open {{ color: #555 }}
.reason {{ border-left: 3px solid #E69F00; padding-left: .6rem }}
p {{ max-width: 90ch; margin: .4rem 0 }} h2 {{ font-size: 1.05rem; margin: 1.2rem 0 .2rem }}
</style>
<h1>Does it help?</h1>
{summary}
{alone}
{details}
<h2>How it is decided</h2>
<p>{rule}</p>
<h2>Curves</h2>
<p>Means over the seeds, in the band of their range. {legend}</p>
<main>
{pictures}
</main>
<p>{foot}</p>
</html>
"""
