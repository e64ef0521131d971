"""Train a config over several seeds and report last and best top-1, or COCO AP.

    python tools/repeat.py configs/kd/kd_digits.py --seeds 0 1 2

Runs go on where an interrupted one stopped, and finished ones are kept while the
config and the teacher's weights stay the same. Every run has one process, on a
GPU of its own where there are several; all of them together leave
``WORK_DIR/repeat.json``.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

import torch
import yaml
from mmengine.config import Config, DictAction
from rich.console import Console
from rich.table import Table

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins.experiments.environment import hardware, versions
from kd_plugins.experiments.repeat import (
    Result,
    Run,
    config_hash,
    epochs_done,
    load_config,
    run_all,
)
from kd_plugins.launch import write_json

#: How tables name the metrics, and the metafile.
NAMES = {
    'accuracy/top1': ('top-1', 'Top 1 Accuracy'),
    'coco/bbox_mAP': ('COCO AP', 'box AP'),
}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Train a config over several seeds.')
    parser.add_argument('config', type=Path, help='config file')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2, 3, 4])
    parser.add_argument(
        '--jobs', type=int, help='runs at a time; by default one for each GPU, or for each core'
    )
    parser.add_argument('--work-dir', type=Path, help='by default work_dirs/repeat/CONFIG')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='settings of the config to override, for example model.teacher_ckpt=teacher.pth',
    )
    args = parser.parse_args()
    if not args.config.is_file():
        parser.error(f'config {str(args.config)!r} is not a file: give the path of a config.')
    if len(set(args.seeds)) < len(args.seeds):
        parser.error(f'--seeds {args.seeds} repeats a seed, which would only repeat its result.')
    args.work_dir = args.work_dir or Path('work_dirs/repeat') / args.config.stem
    return args


def make_runs(args: argparse.Namespace) -> list[Run]:
    """Return a run for every seed, of the config with its overrides."""
    config, name = args.config, args.config.stem
    if args.cfg_options:
        cfg = Config.fromfile(config)
        cfg.merge_from_dict(args.cfg_options)
        config = args.work_dir / config.name
        config.parent.mkdir(parents=True, exist_ok=True)
        cfg.dump(config)
    return [Run(name, str(config), seed, str(args.work_dir / str(seed))) for seed in args.seeds]


def train(runs: list[Run], args: argparse.Namespace, console: Console) -> dict[Run, Result]:
    """Train what is not there yet; say what is done, and twice a minute how far it is."""
    gpus = list(range(torch.cuda.device_count()))
    epochs = len(runs) * load_config(runs[0]).train_cfg.get('max_epochs', 0)
    last_line = time.monotonic()

    def report(run: Run, result: Result) -> None:
        console.print(
            f'seed {run.seed}: last {result.last:.2f}, best {result.best:.2f} '
            f'in {result.seconds:.0f} s'
        )

    def tick() -> None:
        nonlocal last_line
        if time.monotonic() - last_line > 30:
            last_line = time.monotonic()
            console.print(f'{sum(map(epochs_done, runs))} of {epochs} epochs trained')

    jobs = args.jobs or len(gpus) or os.cpu_count() or 1
    return run_all(runs, jobs, args.work_dir / 'output.log', report, tick, gpus)


def spread(values: list[float]) -> dict[str, float | None]:
    """Mean and sample deviation, which a single run has not."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return dict(mean=statistics.mean(values), deviation=deviation)


def listed_figure(config: Path) -> dict | None:
    """Return the figure that the metafile beside the config lists for it, and whose it is."""
    path = config.parent / 'metafile.yml'
    rows = yaml.safe_load(path.read_text(encoding='utf-8'))['Models'] if path.is_file() else []
    for row in rows:
        if row['Name'] == config.stem:
            metrics = row['Results'][0]['Metrics']
            figure = next(metrics[name] for _, name in NAMES.values() if name in metrics)
            source = row['Metadata'].get('Source of results', 'kd_plugins')
            return dict(figure=figure, source=source)
    return None


def summarise(args: argparse.Namespace, results: dict[Run, Result]) -> dict:
    """Return all that the JSON file says."""
    cfg = load_config(next(iter(results)))
    cfg.randomness.pop('seed')
    return dict(
        config=str(args.config),
        config_hash=config_hash(cfg),
        cfg_options=args.cfg_options or {},
        seeds=[
            dict(seed=run.seed, last=r.last, best=r.best, seconds=r.seconds, accuracy=r.accuracy)
            for run, r in results.items()
        ],
        last=spread([r.last for r in results.values()]),
        best=spread([r.best for r in results.values()]),
        seconds=spread([r.seconds for r in results.values()]),
        metric=next(iter(results.values())).metric,
        listed=listed_figure(args.config),
        parameters=next(iter(results.values())).parameters,
        hardware=hardware(),
        versions=versions(),
    )


def table(summary: dict) -> Table:
    """Return the table of a summary."""
    listed = summary['listed']
    shown = Table(
        title=f'{Path(summary["config"]).stem}, {NAMES[summary["metric"]][0]} in %',
        caption=listed and f'the metafile lists {listed["figure"]:.2f} ({listed["source"]})',
    )
    for column in ('seed', 'last epoch', 'best epoch', 's'):
        shown.add_column(column, justify='left' if column == 'seed' else 'right')
    columns = ('last', 'best', 'seconds')
    for row in summary['seeds']:
        shown.add_row(str(row['seed']), *(number(row[c], c) for c in columns))
    shown.add_section()
    for name in ('mean', 'deviation'):
        shown.add_row(name, *(number(summary[c][name], c) for c in columns))
    return shown


def number(value: float | None, column: str) -> str:
    """Return a figure as the table shows it."""
    if value is None:
        return ''
    return f'{value:.0f}' if column == 'seconds' else f'{value:.2f}'


def main() -> None:
    """Train, print, write."""
    args = parse_args()
    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
    runs = make_runs(args)
    done = train(runs, args, console)
    summary = summarise(args, {run: done[run] for run in runs})
    path = args.work_dir / 'repeat.json'
    write_json(str(path), summary)
    console.print(table(summary))
    console.print(
        f'On {summary["hardware"]}, torch {summary["versions"]["torch"]}, config '
        f'{summary["config_hash"]}. Everything: {path}'
    )


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        sys.exit('interrupted; the same command goes on where this one stopped')
