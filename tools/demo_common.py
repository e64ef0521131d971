"""What the demos share: training with a bar of progress."""

import sys
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins.experiments.repeat import RunsFailedError, run_all
from kd_plugins.experiments.results import (
    Failure,
    Result,
    Run,
    length,
    load_config,
    other_versions,
    steps_done,
)

CONFIGS = Path(__file__).resolve().parent.parent / 'configs'


def train(runs: list[Run], jobs: int, log: Path, console: Console) -> dict[Run, Result]:
    """Train what is not there yet, showing epochs and finished runs."""
    epochs = {run: length(load_config(run))[0] for run in runs}
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        TextColumn('{task.completed:.0f}/{task.total} epochs'),
        TimeElapsedColumn(),
        TextColumn('left about'),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task('training', total=sum(epochs.values()))
        last_line = time.monotonic()

        def tick() -> None:
            nonlocal last_line
            done = sum(min(steps_done(run), epochs[run]) for run in runs)
            bar.update(task, completed=done)
            if not console.is_terminal and time.monotonic() - last_line > 15:
                last_line = time.monotonic()
                console.print(f'  {done} of {sum(epochs.values())} epochs trained')

        def report(run: Run, outcome: Result | Failure) -> None:
            name = f'  {run.name}, seed {run.seed}'
            if isinstance(outcome, Failure):
                console.print(f'{name}: failed: {escape(outcome.reason)}')
                return
            console.print(f'{name}: {outcome.last:.2f} % in {outcome.seconds:.0f} s')
            for difference in other_versions(outcome):
                console.print(f'    kept, but it was trained with {escape(difference)}')
            tick()

        def tell(said: str) -> None:
            console.print(f'  {escape(said)}', soft_wrap=True)

        try:
            return run_all(runs, jobs, log, report, tick, tell=tell)
        except RunsFailedError as error:
            failed = str(error)
    sys.exit(failed)


def student_runs(students: dict[str, str], seeds: list[int], work_dir: Path) -> list[Run]:
    """Return a run of every config with every seed, in directories of their own."""
    return [
        Run(name, str(CONFIGS / config), seed, str(work_dir / Path(config).stem / str(seed)))
        for seed in seeds
        for name, config in students.items()
    ]
