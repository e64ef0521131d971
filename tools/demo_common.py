"""What the demos share: runs of their configs, trained or not at all."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins.experiments import progress
from kd_plugins.experiments.results import Result, Run

CONFIGS = Path(__file__).resolve().parent.parent / 'configs'


def train(
    runs: list[Run],
    jobs: int | None,
    log: Path,
    console: Console,
    later: Sequence[Run] = (),
) -> dict[Run, Result]:
    """Train what is not there yet; end where a run fails, since figures need all of them."""
    done, failed = progress.train(runs, jobs, log, console, later)
    if failed:
        sys.exit(
            f'{len(failed)} of {len(runs) + len(later)} runs failed; see {log}. The same command '
            'keeps the others and goes on with the rest.'
        )
    return done


def student_runs(students: dict[str, str], seeds: list[int], work_dir: Path) -> list[Run]:
    """Return a run of every config with every seed, in directories of their own."""
    return [
        Run(name, str(CONFIGS / config), seed, str(work_dir / Path(config).stem / str(seed)))
        for seed in seeds
        for name, config in students.items()
    ]
