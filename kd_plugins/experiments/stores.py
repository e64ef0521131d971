"""Filling stores of a teacher's answers once, before the trainings that read them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from kd_plugins.experiments.results import Run, length, load_config
from kd_plugins.inspect.quiet import quiet


@dataclass(frozen=True)
class Filling:
    """What was done for the store of some runs.

    Args:
        folder: Of the store.
        written: How many pictures the teacher was asked about.
        seconds: What that took.
        samples: How many pictures an epoch shows.
    """

    folder: str
    written: int
    seconds: float
    samples: int

    def saved(self, runs: Iterable[Run]) -> str:
        """Say how many pictures the runs would have asked a live teacher about."""
        pictures = sum(_shown(load_config(run), self.samples) for run in runs)
        asked = 'is not asked any more'
        if self.written:
            asked = f'was asked about {self.written:,} pictures in {self.seconds:.1f} s'
        return (
            f'The store {self.folder!r} is complete: the teacher {asked}, where alone these runs '
            f'would ask it about {pictures:,.0f}.'
        )


def _shown(cfg: Config, of_epoch: int) -> int:
    """Return how many pictures a training shows."""
    steps, unit = length(cfg)
    if unit == 'epochs':
        return steps * of_epoch
    return steps * (cfg.train_dataloader.get('batch_size') or 1)


def runs_by_store(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Return the runs that read a store which they may fill, by its folder."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        cache = (load_config(run).get('model') or {}).get('teacher_cache')
        if isinstance(cache, Mapping) and cache.get('write', True):
            found.setdefault(str(cache.get('dir')), []).append(run)
    return found


def fill_store(runs: Iterable[Run]) -> Filling:
    """Fill the store that these runs read, without training.

    The config that reads most is asked; one that reads less reads the same store. Where
    another job is filling it, this one waits for that.

    Raises:
        ValueError: If it cannot be filled; see :func:`kd_plugins.teachers.filling.fill`.
    """
    from kd_plugins.teachers.filling import fill

    cfg = max((load_config(run) for run in runs), key=_reads)
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner.from_cfg(quiet(cfg, folder))
        filled = fill(runner, wait=True)
    return Filling(cfg.model.teacher_cache.dir, filled.written, filled.seconds, filled.samples)


def _reads(cfg: Any) -> int:
    return len(cfg.model.distiller.get('teacher_recorders') or ())
