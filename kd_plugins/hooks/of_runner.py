"""What hooks ask of a Runner: its model, the terms and the teacher in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook, LoggerHook
from mmengine.model import is_model_wrapper
from torch import nn

from kd_plugins.teachers import Teacher


def trained_model(runner: Any) -> nn.Module:
    """Return the model without what wraps it."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def terms_of(model: nn.Module) -> Mapping[str, nn.Module]:
    """Return the distillation terms by name; none where there is no distiller."""
    distiller = getattr(model, 'distiller', None)
    return dict(getattr(distiller, 'distill_losses', None) or {})


def teacher_in(model: nn.Module) -> Teacher:
    """Return the model's teacher; of a model that has none, the teacher that is none."""
    teacher = vars(model).get('teacher')
    return teacher if isinstance(teacher, Teacher) else Teacher()


def is_logged(hook: Hook, runner: Any, batch_idx: int) -> bool:
    """Whether a ``LoggerHook`` reads at the end of this training iteration.

    Reading a tensor for the log waits for the device, so hooks do it only then.

    Args:
        hook: Any hook; it can count iterations and find the end of an epoch.
        runner: The Runner.
        batch_idx: The iteration within the epoch, from 0.
    """
    last = hook.end_of_epoch(runner.train_dataloader, batch_idx)
    intervals = [other.interval for other in runner.hooks if isinstance(other, LoggerHook)]
    return last or any(hook.every_n_inner_iters(batch_idx, n) for n in intervals)
