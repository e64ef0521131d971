"""Averages of weights that begin with the start of a training."""

from __future__ import annotations

from typing import Any

from mmengine.model import ExponentialMovingAverage as UpstreamAverage

from kd_plugins import checks
from kd_plugins.registry import MODELS


@MODELS.register_module()
class ExponentialMovingAverage(UpstreamAverage):
    """mmengine's average, which can begin with the weights that the training begins with.

    mmengine's is, after the first step, what that step made. With ``from_start`` it is
    then ``(1 - momentum) * start + momentum * first step``, as the code of FixMatch's and
    FullMatch's authors has it. For ``dict(type='EMAHook',
    ema_type='kd_plugins.ExponentialMovingAverage', from_start=True, momentum=0.001)``.

    Args:
        model: The model; the hook gives it.
        from_start: Whether the average begins with the start.
        **kwargs: Upstream's: ``momentum``, ``interval``, ``update_buffers``.
    """

    def __init__(self, model: Any, from_start: bool = False, **kwargs: Any) -> None:
        super().__init__(model, **kwargs)
        self.from_start = checks.flag('ExponentialMovingAverage.from_start', from_start)
        if from_start:
            # At 0 it would copy.
            self.steps += 1

    def begin(self, model: Any) -> None:
        """Take the weights that a training begins with; mmengine's Runner says when.

        The hook makes the average before the Runner initialises and loads the model. An
        average that a resumed training goes on with stays as it is.

        Args:
            model: The model.
        """
        if self.from_start and self.steps == 1:
            start = model.state_dict()
            for name, value in self.module.state_dict().items():
                value.copy_(start[name])
