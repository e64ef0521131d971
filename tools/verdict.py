"""Find out whether a distillation helps: the student alone and distilled, in pairs of one seed.

    python tools/verdict.py configs/dkd/dkd_digits.py --seeds 0 1 2

Trains both with the same data, steps and seeds, and says GO, NO-GO or INCONCLUSIVE,
with the confidence interval of the gain, how many more seeds would settle it, what it
costs, and what the logs know of the reasons. Several configs are compared with one
student alone, with Holm's correction. The student alone is made from the config, or
given by ``--alone``. Runs go on where an interrupted one stopped, and finished ones
are kept while they are the config's. Writes ``WORK_DIR/verdict.html``, a page that
needs nothing else, and ``verdict.json``. The exit code is 1 if a run failed.
"""

import argparse
import json
import math
import sys
from pathlib import Path

from rich.markup import escape
from rich.table import Table

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins import command_line
from kd_plugins.compat import chatter
from kd_plugins.experiments import paired, verdict_page
from kd_plugins.experiments.environment import hardware, versions
from kd_plugins.experiments.logs import average
from kd_plugins.experiments.progress import train
from kd_plugins.experiments.summary import set_aside
from kd_plugins.experiments.verdict import conclude
from kd_plugins.experiments.verdict_plan import inspect_all, plan, side
from kd_plugins.files.writing import write_aside

_COLUMNS = ('', 'verdict', 'gain', 'interval', 'p', 'pairs', 'time', 'memory', 'teacher')


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line.Parser(
        description='Find out whether a distillation helps.',
        epilog='example: python tools/verdict.py configs/dkd/dkd_digits.py --seeds 0 1 2',
    )
    parser.add_argument('configs', type=Path, nargs='+', metavar='CONFIG', help='distillations')
    command_line.add_runs_options(parser, range(3), 'work_dirs/verdict')
    parser.add_argument(
        '--alone',
        type=Path,
        metavar='CONFIG',
        help='config of the student alone; by default it is made from the first config',
    )
    parser.add_argument(
        '--worth',
        type=float,
        default=0.0,
        metavar='POINTS',
        help='the gain that a distillation has to be above; by default %(default)s',
    )
    command_line.add_cfg_options(
        parser, 'of all configs (with --alone those of model of the distillations only)'
    )
    chatter.add_argument(parser)
    args = parser.parse()
    parser.need_files(args.alone)
    if not math.isfinite(args.worth):
        parser.error(f'--worth {args.worth} is no number of points: give a finite one.')
    return args


def table(verdict: dict) -> Table:
    """Return the table of a verdict."""
    shown = Table(title=f'gain of the last validation over the student alone, {verdict["label"]}')
    for column in _COLUMNS:
        shown.add_column(column, justify='right' if column else 'left', overflow='fold')
    for config in verdict['configs']:
        shown.add_row(*map(escape, verdict_page.figures(config, verdict)))
    return shown


def main() -> None:
    """Look, train, conclude, write."""
    args = parse_args()
    chatter.hush(unless=args.verbose)
    console = command_line.console()
    try:
        whole = plan(args.configs, args.seeds, args.work_dir, args.alone, args.cfg_options)
        seen = inspect_all(whole, lambda name: console.print(f'looking at {escape(name)}'))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
    if len(args.seeds) == 1:
        console.print('One seed: there will be a difference, and no interval to judge it by.')
    results, failures = train(whole.runs, args.jobs, args.work_dir / 'output.log', console)
    alone, *distilled = (
        side(each, results, failures, seen[each.name]) for each in (whole.alone, *whole.distilled)
    )
    try:
        verdict = conclude(alone, distilled, args.worth, paired.ALPHA)
    except ValueError as error:
        sys.exit(f'{error} See {args.work_dir / "output.log"}' if failures else str(error))
    verdict = dict(
        config_hash=whole.identity,
        cfg_options=dict(args.cfg_options),
        **verdict,
        hardware=hardware(),
        versions=versions(),
    )
    path, page = args.work_dir / 'verdict.json', args.work_dir / 'verdict.html'
    if other := set_aside(path, whole.identity):
        if page.is_file():
            page.rename(other.with_suffix('.html'))
        console.print(f'a verdict on other configs was here, and is kept in {escape(str(other))}')
    curves = [
        average(list(side.trainings.values()), 'student alone' if side is alone else side.name)
        for side in (alone, *distilled)
    ]
    write_aside(json.dumps(verdict, indent=2).encode() + b'\n', path)
    write_aside(verdict_page.page(verdict, curves).encode(), page)
    console.print(table(verdict), soft_wrap=False)
    for config in verdict['configs']:
        console.print(f'[bold]{escape(config["name"])}[/]: {escape(config["says"])}')
        for reason in config.get('reasons', ()):
            console.print(escape(f'  {reason["what"]} {reason["change"]}'))
        for note in config['notes']:
            console.print(escape(f'  {note}.'))
    for note in verdict['alone']['notes']:
        console.print(f'[bold]{escape(verdict["alone"]["name"])}[/]: {escape(note)}.')
    console.print(escape(verdict['rule']))
    console.print(f'wrote {escape(str(page))} and {escape(str(path))}')
    if failures:
        sys.exit(
            f'{len(failures)} of {len(whole.runs)} runs failed; see {args.work_dir / "output.log"}'
        )


if __name__ == '__main__':
    command_line.start(main)
