"""DOT: the angle between what the task and what the teacher want, in the log."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook

from kd_plugins.hooks.of_runner import is_logged, trained_model
from kd_plugins.optim import DOTOptimWrapper
from kd_plugins.registry import HOOKS


@HOOKS.register_module()
class GradientCosineHook(Hook):
    """Log the cosine between both gradients of a training with DOT.

    It is logged as ``grad_cosine``, in [-1, 1], over the parameters that both
    losses reach, of the update in the iteration that is logged (with gradient
    accumulation, of the next one). Other iterations cost nothing. Put it into
    ``default_hooks``, under any name.

    Raises:
        TypeError: Before the training, if it has no ``DOTOptimWrapper``.
    """

    def before_train(self, runner: Any) -> None:
        """Check that there are two gradients."""
        if not isinstance(runner.optim_wrapper, DOTOptimWrapper):
            raise TypeError(
                'GradientCosineHook needs the gradients of both losses apart, but '
                f'optim_wrapper.type={type(runner.optim_wrapper).__name__!r} has only their sum: '
                "train with type='kd_plugins.DOTOptimWrapper' (delta=0.0 is plain SGD), or leave "
                'the hook out.'
            )

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Ask for the cosine of this iteration if it will be logged."""
        stopped = getattr(trained_model(runner), 'distillation_stopped', False)
        if is_logged(self, runner, batch_idx) and not stopped:
            runner.optim_wrapper.cosine_wanted = True
