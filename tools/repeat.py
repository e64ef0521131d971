"""Train a config over several seeds and report last and best top-1, or COCO AP.

    python tools/repeat.py configs/kd/kd_digits.py --seeds 0 1 2

Runs go on where an interrupted one stopped, and finished ones are kept while the
config, the networks behind it and every weight file stay the same. Where the config has
``model.teacher_cache``, its store is filled once, before the first run. Every run has
one process, on a GPU of its own where there are several; all of them together
leave ``WORK_DIR/repeat.json``. A seed that fails is named, with the reason, and
the others are trained and reported all the same; the exit code is 1 then.
"""

import argparse
import json
import sys
from pathlib import Path

from rich.markup import escape
from rich.table import Table

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins import command_line
from kd_plugins.experiments.data import other_data
from kd_plugins.experiments.metrics import headline
from kd_plugins.experiments.progress import train
from kd_plugins.experiments.results import Run, check_run, hash_of_all_seeds, load_config
from kd_plugins.experiments.summary import COLUMNS, set_aside, summarise
from kd_plugins.files.writing import write_aside


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line.Parser(
        description='Train a config over several seeds.',
        epilog='example: python tools/repeat.py configs/kd/kd_digits.py --seeds 0 1 2',
    )
    parser.add_argument('config', type=Path, help='config file')
    command_line.add_runs_options(parser, range(5), 'work_dirs/repeat/CONFIG', known=False)
    command_line.add_cfg_options(parser)
    args = parser.parse()
    args.work_dir = args.work_dir or Path('work_dirs/repeat') / args.config.stem
    return args


def table(summary: dict) -> Table:
    """Return the table of a summary."""
    found, listed = headline([summary['metric']]), summary['listed']
    assert found is not None
    shown = Table(
        title=f'{escape(Path(summary["config"]).stem)}, {found.label} in %',
        caption=listed and f'the metafile lists {listed["figure"]:.2f} ({listed["source"]})',
    )
    for column in ('seed', 'last', 'best', 's'):
        shown.add_column(column, justify='left' if column == 'seed' else 'right')
    for row in summary['seeds']:
        shown.add_row(str(row['seed']), *(number(row[c], c) for c in COLUMNS))
    for row in summary['failed']:
        shown.add_row(str(row['seed']), 'failed', '', '')
    shown.add_section()
    for name in ('mean', 'deviation'):
        shown.add_row(name, *(number(summary[c][name], c) for c in COLUMNS))
    return shown


def number(value: float | None, column: str) -> str:
    """Return a figure as the table shows it."""
    if value is None:
        return ''
    return f'{value:.0f}' if column == 'seconds' else f'{value:.2f}'


def main() -> None:
    """Train, print, write."""
    args = parse_args()
    console = command_line.console()
    name = args.config.stem
    runs = [
        Run(name, str(args.config), seed, str(args.work_dir / str(seed)), args.cfg_options)
        for seed in args.seeds
    ]
    try:
        check_run(load_config(runs[0]))
        identity = hash_of_all_seeds(runs[0])
        done, failures = train(runs, args.jobs, args.work_dir / 'output.log', console)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
    said = f'{len(failures)} of {len(runs)} seeds failed; see {args.work_dir / "output.log"}'
    if not done:
        sys.exit(said)
    results = {run: done[run] for run in runs if run in done}
    summary = summarise(args.config, args.cfg_options, identity, results, failures)
    path = args.work_dir / 'repeat.json'
    if other := set_aside(path, identity):
        console.print(f'results of another config were here, and are kept in {escape(str(other))}')
    write_aside(json.dumps(summary, indent=2).encode() + b'\n', path)
    console.print(table(summary), soft_wrap=False)
    console.print(
        f'On {summary["hardware"]}, torch {summary["versions"]["torch"]}, config '
        f'{summary["config_hash"]}.'
    )
    if unlike := other_data({f'seed {run.seed}': result for run, result in results.items()}):
        console.print(
            escape(f'{unlike}: do not take their mean; remove those of before it changed.')
        )
    console.print(f'wrote {escape(str(path))}')
    if failures:
        sys.exit(said)


if __name__ == '__main__':
    command_line.start(main)
