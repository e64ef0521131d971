"""The guard of a distillation: what it does about terms that went wrong."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import CheckpointHook, Hook

from kd_plugins import checks
from kd_plugins.hooks import teacher_look
from kd_plugins.hooks.of_runner import teacher_in, terms_of, trained_model
from kd_plugins.hooks.term_watch import TermWatch
from kd_plugins.registry import HOOKS

ACTIONS = ('stop', 'skip', 'warn')


@HOOKS.register_module()
class DistillationGuardHook(Hook):
    """Watch every distillation term, and look at the teacher once.

    A term that is NaN or infinite, below the least value that it can have, or
    that suddenly outgrows the task's loss a hundred times, is reported with its
    iteration and the range of what it was computed from. Each step compares on
    the device and keeps the first such record there; the host reads it every
    ``interval`` iterations, at the end of every epoch and before every checkpoint
    and validation, so no step waits for the device and no checkpoint is written
    after the accident.

    The first batch tells whether the teacher's logits say anything: a warning
    if they are the same for every picture, or if the teacher is right no more
    often than chance (three standard deviations above it at most). That is for
    classifiers, and costs one synchronisation in all.

    Args:
        action: ``'stop'`` ends the training; ``'skip'`` takes the term, and its
            gradient, out of the steps in which it is not finite or below its least
            value, says so and goes on (the task loss still trains); ``'warn'`` only says so.
        interval: Iterations between two readings.
        check_teacher: Whether to look at the first batch.

    Raises:
        ValueError: If ``action`` or ``interval`` is none of these.
        FloatingPointError: During the training, with ``action='stop'``.
    """

    # Before the CheckpointHook, which is VERY_LOW.
    priority = 'NORMAL'

    def __init__(
        self, action: str = 'stop', interval: int = 50, check_teacher: bool = True
    ) -> None:
        name = type(self).__name__
        self.action = checks.one_of(f'{name}.action', action, ACTIONS)
        self.interval = checks.whole_number(
            f'{name}.interval', interval, right='a number of iterations, at least 1'
        )
        self.check_teacher = check_teacher
        self.watches: list[TermWatch] = []

    def before_train(self, runner: Any) -> None:
        """Find the terms and the teacher."""
        model = trained_model(runner)
        for watch in self.watches:
            watch.remove()
        self.watches = [
            TermWatch(f'distill.{name}', loss, runner, self.action == 'skip')
            for name, loss in terms_of(model).items()
        ]
        if self.check_teacher:
            teacher_look.warn_once(teacher_in(model), runner.logger)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Compare the terms with the task's loss, and read the records if it is time."""
        if outputs and isinstance(outputs.get('task_loss'), torch.Tensor):
            for watch in self.watches:
                if isinstance(outputs.get(watch.name), torch.Tensor):
                    watch.beside(outputs[watch.name], outputs['task_loss'])
        if self.every_n_train_iters(runner, self.interval) or self._checkpoint_is_due(runner):
            self._read(runner)

    def after_train_epoch(self, runner: Any) -> None:
        """Read the records before the epoch's checkpoint."""
        self._read(runner)

    def before_val_epoch(self, runner: Any) -> None:
        """Read the records before a validation, whose best gets a checkpoint."""
        self._read(runner)

    def after_train(self, runner: Any) -> None:
        """Leave the terms alone: another training of the model may have another guard."""
        for watch in self.watches:
            watch.remove()

    def _checkpoint_is_due(self, runner: Any) -> bool:
        return any(
            not hook.by_epoch
            and (
                self.every_n_train_iters(runner, hook.interval, hook.save_begin)
                or (hook.save_last and self.is_last_train_iter(runner))
            )
            for hook in runner.hooks
            if isinstance(hook, CheckpointHook)
        )

    def _read(self, runner: Any) -> None:
        if not self.watches:
            return
        # One copy to the host, where the count of a term is that was not computed yet.
        devices = [watch.count.device for watch in self.watches]
        device = next((d for d in devices if d.type != 'cpu'), devices[0])
        counts = torch.stack([watch.count.to(device) for watch in self.watches]).cpu()
        everywhere = counts.clone()
        # Together, because the other ranks would wait for one that stopped alone.
        all_reduce(everywhere, op='max')
        for watch, own, count in zip(self.watches, counts, everywhere.tolist(), strict=True):
            watch.next_window()
            if count:
                self._report(watch, bool(own), int(count), runner)

    def _report(self, watch: TermWatch, here: bool, count: int, runner: Any) -> None:
        said = watch.describe() if here else f'{watch.name} went wrong on another process'
        outgrew = here and watch.outgrew
        watch.reset()
        said += f'; wrong in {count} iterations since the last look'
        if self.action == 'stop':
            raise FloatingPointError(
                f'{said}: no checkpoint was written since; lower the learning rate or the loss '
                "weight and go on with --resume, or set DistillationGuardHook.action='skip'."
            )
        left_out = self.action == 'skip' and not outgrew
        did = 'the term was left out there' if left_out else 'training goes on'
        runner.logger.warning(f'{said}; {did} (DistillationGuardHook.action={self.action!r}).')
