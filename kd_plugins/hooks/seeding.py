"""Random states as a function of the training's progress, for exact resume."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop

from kd_plugins.registry import FUNCTIONS, HOOKS
from kd_plugins.views import forget_pictures


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@HOOKS.register_module()
class SeedByProgressHook(Hook):
    """Reseed at the start of every epoch, or of every iteration without epochs.

    A run that is resumed then draws what the undisturbed run would have drawn,
    and ends in the same weights. Saving the random states in the checkpoint is
    not enough, because validation draws as well. It also takes an explicit
    ``randomness=dict(seed=...)``, ``persistent_workers=False`` and, with
    workers, ``worker_init_fn=dict(type='kd_plugins.seed_worker')``.

    Without workers the caches of mmdet's ``CachedMosaic`` and ``CachedMixUp`` are emptied there,
    too; workers that are no persistent ones begin every epoch with empty ones.

    The seed is made of the run's seed, the epoch (or iteration) and the rank. In a loop without
    epochs every batch is loaded after such a seed, too, and with ``num_workers=0`` augmented.
    """

    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner: Any) -> None:
        """Seed the epoch before its data loader starts."""
        if not self._by_iteration(runner):
            self._seed(runner, runner.epoch)
            forget_pictures(runner.train_dataloader.dataset)
            return
        # Such a loop loads a batch before it calls any hook of the iteration.
        batches = getattr(runner.train_loop, 'dataloader_iterator', None)
        if batches is not None and not isinstance(batches, _SeededBatches):
            runner.train_loop.dataloader_iterator = _SeededBatches(batches, runner)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Seed the iteration, in loops that have no epochs."""
        if self._by_iteration(runner):
            self._seed(runner, runner.iter)

    @staticmethod
    def _by_iteration(runner: Any) -> bool:
        # A loop without epochs reports one, and so does a training of one epoch.
        return runner.max_epochs == 1 and not isinstance(runner.train_loop, EpochBasedTrainLoop)

    @staticmethod
    def _seed(runner: Any, step: int) -> None:
        _seed_of(runner.seed, step, get_rank())


class _SeededBatches:
    """The batches of a loop without epochs, each loaded after a seed that its number makes.

    Args:
        batches: The loop's iterator.
        runner: The Runner.
    """

    def __init__(self, batches: Any, runner: Any) -> None:
        self._batches = batches
        self._runner = runner
        self._number = 0

    def __iter__(self) -> _SeededBatches:
        return self

    def __next__(self) -> Any:
        # Newer versions of mmengine start the loader late, which draws a seed for its workers.
        getattr(self._batches, '_ensure_iterator', lambda: None)()
        # The last number keeps what a batch draws apart from what its step draws.
        _seed_of(self._runner.seed, self._number, get_rank(), 1)
        self._number += 1
        return next(self._batches)

    def skip_iter(self, number: int) -> None:
        """Leave out the batches of before a resume; newer versions of mmengine ask for it."""
        self._number += number
        self._batches.skip_iter(number)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)


def _seed_of(*numbers: int) -> None:
    sequence = np.random.SeedSequence(numbers)
    seed_everything(int(sequence.generate_state(1, dtype=np.uint32)[0]))


@FUNCTIONS.register_module()
def seed_worker(worker_id: int) -> None:
    """Leave a loader's worker the seeds that torch gave it.

    torch seeds python, numpy and itself in every worker from a number that the
    loader draws anew in every epoch. mmengine's own function, which it uses
    unless a config names another, then gives the worker the same seed in every
    epoch, and so the same augmentations.
    """
