"""Pictures of trainings, and a page that compares them."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import matplotlib

from kd_plugins.experiments import timing
from kd_plugins.experiments.logs import Curves, Training
from kd_plugins.experiments.metrics import headline

#: Dark enough on white, and apart for the colour-blind (Okabe and Ito).
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#555555')
STYLES = ('-', '--', ':', '-.')


@dataclass(frozen=True)
class Panel:
    """One pair of axes: which curves it shows, and how.

    Args:
        title: Label of the vertical axis.
        wanted: Which names it shows.
        of: ``'train'`` or ``'val'``.
        log: Whether the vertical axis is logarithmic.
    """

    title: str
    wanted: Callable[[str], bool]
    of: str = 'train'
    log: bool = False


#: Of a temperature that is a band.
_ENDS = ('_min', '_max')


def _is(*names: str) -> Callable[[str], bool]:
    return lambda name: name.split('.')[0] in names


PANELS = (
    Panel('validation', lambda n: headline([n]) is not None, of='val'),
    Panel('task loss', _is('task_loss'), log=True),
    Panel('distillation loss', _is('distill_loss'), log=True),
    Panel('each term', lambda n: n.startswith('distill.') and 'loss' in n, log=True),
    Panel('agreement with the teacher in %', _is('agreement', 'dense_agreement')),
    Panel('TCKD and NCKD', _is('tckd', 'nckd'), log=True),
    Panel('temperature', lambda n: n.split('.')[0] == 'tau' and not n.endswith(_ENDS)),
    Panel('cosine of both gradients', _is('grad_cosine')),
    Panel('learning rate', _is('lr')),
)


def panels_of(trainings: Sequence[Training]) -> list[tuple[Panel, list[Curves]]]:
    """Return the panels for which there is anything, with each training's curves."""
    found = []
    for panel in PANELS:
        curves = [
            {
                name: c
                for name, c in getattr(t, panel.of).items()
                if panel.wanted(name) and not _is_edge(name, getattr(t, panel.of))
            }
            for t in trainings
        ]
        names = {name for named in curves for name in named}
        # A single term is the distillation loss; it need not be shown twice.
        if names and not (panel.title == 'each term' and len(names) < 2):
            found.append((panel, curves))
    return found


def _is_edge(name: str, curves: Curves) -> bool:
    """Whether a curve is the edge of another one's band."""
    return any(name.endswith(end) and name.removesuffix(end) in curves for end in _ENDS)


def draw_panel(
    axes: Any, panel: Panel, trainings: Sequence[Training], curves: list[Curves]
) -> None:
    """Draw a panel: a colour for each training, a line style for each name."""
    names = sorted({name for named in curves for name in named})
    for i, (training, named) in enumerate(zip(trainings, curves, strict=True)):
        bands = getattr(training, panel.of)
        for name, curve in named.items():
            steps = sorted(curve)
            whole = training.name if len(names) == 1 else f'{training.name} {_short(name)}'
            label = plain(whole)
            style = dict(color=COLOURS[i % len(COLOURS)], gid=f'run{i}')
            marker = 'o' if len(steps) < 3 else None
            axes.plot(
                steps, [curve[s] for s in steps], label=label, marker=marker, markersize=3,
                linestyle=STYLES[names.index(name) % len(STYLES)], linewidth=1.4, **style,
            )  # fmt: skip
            low, high = (bands.get(f'{name}_{end}') for end in ('min', 'max'))
            if low and high:
                both = sorted(low.keys() & high.keys())
                axes.fill_between(
                    both, [low[s] for s in both], [high[s] for s in both], alpha=0.2,
                    linewidth=0, **style,
                )  # fmt: skip
    axes.set_xlabel('iteration' if panel.of == 'train' else 'epoch or iteration')
    axes.set_title(panel.title, fontsize=10, loc='left')
    values = [v for named in curves for c in named.values() for v in c.values() if isfinite(v)]
    if panel.log and values and min(values) > 0:
        axes.set_yscale('log')
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)


def plain(name: str) -> str:
    """Return a label that matplotlib shows as it is.

    It takes what is between two dollars for mathematics, and leaves out of
    legends what begins with an underscore.
    """
    name = name.replace('$', r'\$')
    return f' {name}' if name.startswith('_') else name


def _short(name: str) -> str:
    return name.removeprefix('distill.').removeprefix('loss_')


def draw(trainings: Sequence[Training]) -> Any:
    """Return one matplotlib figure of all panels."""
    pyplot = _pyplot()
    found = panels_of(trainings)
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    figure, grid = pyplot.subplots(
        rows,
        columns,
        figsize=(4.6 * columns, 3.2 * rows + 0.4),
        layout='constrained',
        squeeze=False,
    )
    for axes in grid.flat[len(found) :]:
        axes.set_visible(False)
    for axes, (panel, curves) in zip(grid.flat, found, strict=False):
        draw_panel(axes, panel, trainings, curves)
        names = {name for named in curves for name in named}
        if len(names) > 1:
            axes.legend(fontsize=7, frameon=False)
    handles = [
        matplotlib.lines.Line2D([], [], color=COLOURS[i % len(COLOURS)], label=plain(training.name))
        for i, training in enumerate(trainings)
    ]
    figure.legend(
        handles=handles, loc='outside upper center', ncols=min(len(handles), 4), frameon=False
    )
    return figure


def pictures(trainings: Sequence[Training]) -> list[str]:
    """Return an SVG figure of each panel, for a page of HTML."""
    found = []
    for number, (panel, curves) in enumerate(panels_of(trainings)):

        def fill(axes: Any, panel: Panel = panel, curves: list[Curves] = curves) -> None:
            draw_panel(axes, panel, trainings, curves)
            if len({name for named in curves for name in named}) > 1:
                axes.legend(fontsize=7, frameon=False)

        found.append(picture(fill, number))
    return found


def picture(
    fill: Callable[[Any], None], number: int, size: tuple[float, float] = (5.4, 3.4)
) -> str:
    """Return one pair of axes as an SVG figure for a page of HTML.

    Args:
        fill: Draws on the axes.
        number: Of the figure on its page; no two have the same.
        size: Width and height in inches.
    """
    pyplot = _pyplot()
    # Names inside an SVG belong to the whole page.
    with matplotlib.rc_context({'svg.hashsalt': str(number), 'svg.fonttype': 'none'}):
        figure, axes = pyplot.subplots(figsize=size, layout='constrained')
        fill(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format='svg', metadata={'Date': None})
        pyplot.close(figure)
    svg = buffer.getvalue()
    return f'<figure>{_own_ids(svg[svg.index("<svg") :], number)}</figure>'


def page(trainings: Sequence[Training]) -> str:
    """Return a page of HTML that needs nothing else: every panel, and a table to compare by."""
    rows = ''.join(_row(i, training) for i, training in enumerate(trainings))
    return _PAGE.format(
        style=STYLE,
        head=''.join(f'<th>{html.escape(name)}</th>' for name in ('', *_COLUMNS)),
        rows=rows,
        pictures='\n'.join(pictures(trainings)),
    )


def _own_ids(svg: str, number: int) -> str:
    """Make the ids of a picture differ from those of the others on the page."""

    def rename(tag: re.Match) -> str:
        text = re.sub(r'\bid="run(\d+)"', r'class="run\1"', tag[0])
        text = re.sub(r'\bid="', f'id="p{number}-', text)
        text = re.sub(r'xlink:href="#', f'xlink:href="#p{number}-', text)
        return re.sub(r'url\(#', f'url(#p{number}-', text)

    # In tags alone: a training may be called url(#).
    return re.sub(r'<[^>]+>', rename, svg)


def _last(curve: dict[int, float]) -> float:
    return curve[max(curve)]


def _headline(training: Training) -> dict[int, float]:
    found = headline(training.val)
    return training.val[found.name] if found else {}


_COLUMNS: dict[str, Callable[[Training], float | None]] = {
    'last': lambda t: _last(_headline(t)) if _headline(t) else None,
    'best': lambda t: max(filter(isfinite, _headline(t).values()), default=None),
    'task loss': lambda t: _last(t.train['task_loss']) if 'task_loss' in t.train else None,
    'distillation loss': lambda t: (
        _last(t.train['distill_loss']) if 'distill_loss' in t.train else None
    ),
    'agreement in %': lambda t: _last(t.train['agreement']) if 'agreement' in t.train else None,
    'iterations': lambda t: max((max(c) for c in t.train.values()), default=None),
    'ms an iteration': lambda t: 1000 * _median(t.train['time']) if 'time' in t.train else None,
    'of these the teacher': lambda t: (
        1000 * _median(t.train['teacher_seconds']) if 'teacher_seconds' in t.train else None
    ),
}


def _median(curve: dict[int, float]) -> float:
    return timing.median([curve[step] for step in sorted(curve)])


def _row(number: int, training: Training) -> str:
    cells = (column(training) for column in _COLUMNS.values())
    shown = ''.join(f'<td>{"" if value is None else f"{value:.4g}"}</td>' for value in cells)
    colour = COLOURS[number % len(COLOURS)]
    return (
        f'<tr><td><label><input type="checkbox" checked data-run="run{number}"> '
        f'<span style="color:{colour}">&#9644;</span> {html.escape(training.name)}</label></td>'
        f'{shown}</tr>'
    )


def _pyplot() -> Any:
    matplotlib.use('Agg')
    from matplotlib import pyplot

    return pyplot


#: How pages look.
STYLE = """body { font: 15px/1.4 system-ui, sans-serif; margin: 1.5rem auto; max-width: 1500px;
  padding: 0 1rem }
table { border-collapse: collapse; margin-bottom: 1rem; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .8rem .25rem 0; text-align: right;
  border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(380px, 1fr)); gap: 1rem }
figure { margin: 0 }
svg { width: 100%; height: auto }
.hidden { display: none }
"""
_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Trainings</title>
<style>
{style}</style>
<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>
<main>
{pictures}
</main>
<script>
for (const box of document.querySelectorAll('input[data-run]'))
  box.addEventListener('change', () => {{
    for (const line of document.getElementsByClassName(box.dataset.run))
      line.classList.toggle('hidden', !box.checked);
  }});
</script>
</html>
"""
