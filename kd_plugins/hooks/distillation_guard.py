"""Distillation terms that are no longer numbers, and teachers that teach nothing."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from kd_plugins.registry import HOOKS
from kd_plugins.teachers import Teacher

ACTIONS = ('stop', 'skip', 'warn')


@HOOKS.register_module()
class DistillationGuardHook(Hook):
    """Watch every distillation term, and look at the teacher once.

    A term that is NaN or infinite is reported with its iteration and the range
    of what it was computed from. Each step compares on the device and keeps the
    first such record there; the host reads it every ``interval`` iterations, at
    the end of every epoch and before every checkpoint and validation, so no step
    waits for the device and no checkpoint is written after the accident.

    The first batch tells whether the teacher's logits say anything: a warning
    if they are the same for every picture, or if the teacher is right no more
    often than chance (two standard deviations above it at most). That is for
    classifiers, and costs one synchronisation in all.

    Args:
        action: ``'stop'`` ends the training; ``'skip'`` takes the term, and its
            gradient, out of the steps in which it is not finite, says so and
            goes on (the task loss still trains); ``'warn'`` only says so.
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
        if action not in ACTIONS:
            raise ValueError(f'{name}.action={action!r} is not one of {", ".join(ACTIONS)}.')
        if not isinstance(interval, int) or isinstance(interval, bool) or interval < 1:
            raise ValueError(f'{name}.interval={interval!r} is not a number of iterations above 0.')
        self.action = action
        self.interval = interval
        self.check_teacher = check_teacher
        self.watches: list[TermWatch] = []

    def before_train(self, runner: Any) -> None:
        """Find the terms and the teacher."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        losses = getattr(getattr(model, 'distiller', None), 'distill_losses', {})
        for watch in self.watches:
            watch.remove()
        self.watches = [
            TermWatch(f'distill.{name}', loss, runner, self.action == 'skip')
            for name, loss in losses.items()
        ]
        teacher = vars(model).get('teacher')
        if self.check_teacher and isinstance(teacher, Teacher):
            _look_once(teacher, runner)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Read the records if it is time."""
        if self.every_n_train_iters(runner, self.interval) or self._checkpoint_is_due(runner):
            self._read(runner)

    def after_train_epoch(self, runner: Any) -> None:
        """Read the records before the epoch's checkpoint."""
        self._read(runner)

    def before_val_epoch(self, runner: Any) -> None:
        """Read the records before a validation, whose best gets a checkpoint."""
        self._read(runner)

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
        counts = torch.stack([watch.count for watch in self.watches]).cpu()
        everywhere = counts.clone()
        # Together, because the other ranks would wait for one that stopped alone.
        all_reduce(everywhere, op='max')
        for watch, own, count in zip(self.watches, counts, everywhere.tolist(), strict=True):
            if count:
                self._report(watch, bool(own), int(count), runner)

    def _report(self, watch: TermWatch, here: bool, count: int, runner: Any) -> None:
        said = watch.describe() if here else f'{watch.name} was not finite on another process'
        watch.reset()
        said += f', and not finite in {count} iterations since the last look'
        if self.action == 'stop':
            raise FloatingPointError(
                f'{said}: no checkpoint was written since; lower the learning rate or the loss '
                "weight and go on with --resume, or set DistillationGuardHook.action='skip'."
            )
        did = 'the term was left out there' if self.action == 'skip' else 'training goes on'
        runner.logger.warning(f'{said}; {did} (DistillationGuardHook.action={self.action!r}).')


class TermWatch:
    """Keeps, on the device, when a term was first not finite and what it was made of.

    Args:
        name: The name it is logged under.
        loss: The module that computes it.
        runner: Tells the iteration.
        skip: Whether to take a term that is not finite out of its step.
    """

    def __init__(self, name: str, loss: nn.Module, runner: Any, skip: bool) -> None:
        self.name = name
        self.runner = runner
        self.skip = skip
        self.inputs: list[str] = []
        self.reset()
        self.finite = torch.ones((), dtype=torch.bool)
        self.handles: list[Any] = [loss.register_forward_hook(self._after, with_kwargs=True)]
        if skip:
            self.handles.append(loss.register_forward_pre_hook(self._before, with_kwargs=True))
            self.handles += [
                parameter.register_hook(self._gated)
                for parameter in loss.parameters()
                if parameter.requires_grad
            ]

    def remove(self) -> None:
        """Leave the loss alone."""
        for handle in self.handles:
            handle.remove()

    def reset(self) -> None:
        """Forget."""
        self.count = torch.zeros((), dtype=torch.int64)
        self.record = torch.zeros(())

    def describe(self) -> str:
        """Say what was recorded; waits for the device."""
        iteration, term, *ranges = self.record.tolist()
        made_of = ', '.join(
            f'{name} in [{ranges[2 * i]:.4g}, {ranges[2 * i + 1]:.4g}]'
            for i, name in enumerate(self.inputs)
        )
        return f'{self.name} became {term:.4g} at iteration {int(iteration)}' + (
            f' ({made_of})' if made_of else ''
        )

    def _gated(self, gradient: Tensor) -> Tensor:
        return torch.where(self.finite.to(gradient.device), gradient, torch.zeros_like(gradient))

    def _before(self, loss: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return (
            tuple(self._gate(value) for value in args),
            {name: self._gate(value) for name, value in kwargs.items()},
        )

    def _gate(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.requires_grad:
            value = value.view_as(value)
            # Zeroing the loss is not enough: 0 times an infinite derivative is NaN.
            value.register_hook(self._gated)
        return value

    def _after(self, loss: nn.Module, args: tuple, kwargs: dict, term: Any) -> Any:
        if not isinstance(term, Tensor):
            return None
        value = term.detach()
        finite = torch.isfinite(value).all()
        inputs = {
            name: x.detach()
            for name, x in [*((f'input {i}', x) for i, x in enumerate(args)), *kwargs.items()]
            if isinstance(x, Tensor) and x.is_floating_point() and x.numel()
        }
        self.inputs = list(inputs)
        ranges = [edge for x in inputs.values() for edge in torch.aminmax(x)]
        # Filled on the device: a copy from the host would wait for it. In float32, which
        # every device has.
        iteration = torch.full((), self.runner.iter + 1, dtype=torch.float32, device=value.device)
        new = torch.stack([iteration, *(x.float() for x in (value.mean(), *ranges))])
        if self.record.shape != new.shape or self.record.device != new.device:
            self.record = torch.zeros_like(new)
            self.count = self.count.to(value.device)
        self.record = torch.where(~finite & (self.count == 0), new, self.record)
        self.count = self.count + ~finite
        self.finite = finite
        return torch.where(finite, term, torch.zeros_like(term)) if self.skip else None


def _look_once(teacher: Teacher, runner: Any) -> None:
    """Warn, when the teacher next looks at a batch, if its logits say nothing."""

    def look(logits: Any, data_samples: Any) -> None:
        stop()
        if isinstance(logits, Tensor) and logits.dim() == 2 and logits.shape[0] > 1:
            complaint = teacher_complaint(logits, _labels(data_samples))
            if complaint:
                runner.logger.warning(complaint)

    stop = teacher.watch(after=look)


def _labels(data_samples: Any) -> Tensor | None:
    """Return the classes of a batch, (N,), if that is what its samples have."""
    if data_samples is None or isinstance(data_samples, Tensor):
        labels = data_samples
    else:
        given = [getattr(sample, 'gt_label', None) for sample in data_samples]
        each = [
            label.reshape(1) for label in given if isinstance(label, Tensor) and len(label) == 1
        ]
        if not each or len(each) < len(given):
            return None
        labels = torch.cat(each)
    integers = labels is not None and labels.dim() == 1 and not labels.is_floating_point()
    return labels if integers else None


def teacher_complaint(logits: Tensor, labels: Tensor | None) -> str | None:
    """Say what is wrong with a teacher, from its logits (N, C) and the classes (N,).

    Returns:
        A sentence, or None: nothing is wrong, or the batch is too small to tell.
    """
    size, classes = logits.shape
    spread = (logits.float() - logits[:1].float()).abs().max()
    scale = logits.float().abs().max()
    if bool(spread <= 1e-6 * scale):
        return (
            f'the teacher gives all {size} pictures of the first batch the same logits, and '
            'teaches nothing: check model.teacher_ckpt and the input that it was trained with '
            '(data_preprocessor of its config).'
        )
    if labels is None or labels.shape[0] != size or classes < 2:
        return None
    chance = 1 / classes
    limit = size * chance + 2 * (size * chance * (1 - chance)) ** 0.5
    right = int((logits.argmax(dim=1) == labels.to(logits.device)).sum())
    if limit < size and right <= limit:
        return (
            f'the teacher is right on {right} of the {size} pictures of the first batch, where '
            f'guessing among {classes} classes gives {size * chance:.2g}: check '
            'model.teacher_ckpt, the order of its classes and the input that it was trained with '
            '(data_preprocessor of its config).'
        )
    return None
