"""What the demos share: training with a bar of progress, means and deviations."""

import statistics
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins.experiments.repeat import Result, Run, epochs_done, load_config, run_all

CONFIGS = Path(__file__).resolve().parent.parent / 'configs'


def train(runs: list[Run], jobs: int, log: Path, console: Console) -> dict[Run, Result]:
    """Train what is not there yet, showing epochs and finished runs."""
    epochs = {run: load_config(run).train_cfg.max_epochs for run in runs}
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
            done = sum(min(epochs_done(run), epochs[run]) for run in runs)
            bar.update(task, completed=done)
            if not console.is_terminal and time.monotonic() - last_line > 15:
                last_line = time.monotonic()
                console.print(f'  {done} of {sum(epochs.values())} epochs trained')

        def report(run: Run, result: Result) -> None:
            console.print(
                f'  {run.name}, seed {run.seed}: {result.last:.2f} % in {result.seconds:.0f} s'
            )
            tick()

        return run_all(runs, jobs, log, report, tick)


def student_runs(students: dict[str, str], seeds: list[int], work_dir: Path) -> list[Run]:
    """Return a run of every config with every seed, in directories of their own."""
    return [
        Run(name, str(CONFIGS / config), seed, str(work_dir / Path(config).stem / str(seed)))
        for seed in seeds
        for name, config in students.items()
    ]


def spread(values: list[float]) -> str:
    """Mean and sample deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else float('nan')
    return f'{statistics.mean(values):.2f} ± {deviation:.2f}'


def difference(values: list[float], reference: list[float]) -> str:
    """Return the gain in means, and a question mark within two standard errors."""
    gain = statistics.mean(values) - statistics.mean(reference)
    if len(values) < 2:
        return f'{gain:+.2f} ?'
    error = (
        statistics.variance(values) / len(values) + statistics.variance(reference) / len(reference)
    ) ** 0.5
    return f'{gain:+.2f}' + (' ?' if abs(gain) < 2 * error else '')
