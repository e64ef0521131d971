"""When the log is about to be written: reading a tensor for it waits for the device."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook, LoggerHook


def is_logged(hook: Hook, runner: Any, batch_idx: int) -> bool:
    """Whether a ``LoggerHook`` reads at the end of this training iteration.

    Args:
        hook: Any hook; it can count iterations and find the end of an epoch.
        runner: The Runner.
        batch_idx: The iteration within the epoch, from 0.
    """
    last = hook.end_of_epoch(runner.train_dataloader, batch_idx)
    intervals = [other.interval for other in runner.hooks if isinstance(other, LoggerHook)]
    return last or any(hook.every_n_inner_iters(batch_idx, n) for n in intervals)
