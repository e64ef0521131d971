"""CTKD's global temperature: one learned number."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_plugins.registry import MODELS
from kd_plugins.temperatures.learned import LearnedTemperature


@MODELS.register_module()
class GlobalTemperature(LearnedTemperature):
    """One temperature for all samples, ``start + end * sigmoid(theta)``.

    ``theta`` is trained by the student's optimizer, weight decay included, as
    in the published code. It stands below ``distiller`` in the model, so that
    ``paramwise_cfg=dict(custom_keys={'distiller': dict(lr_mult=...)})`` sets
    its own learning rate.

    Args:
        start: Lower end of the range, above 0.
        end: Width of the range, above 0: tau lies in (start, start + end).
        init: Initial theta, finite; 1 gives tau 15.62.

    Raises:
        ValueError: If the range reaches 0, or a number is none.
    """

    def __init__(self, start: float = 1.0, end: float = 20.0, init: float = 1.0) -> None:
        super().__init__(start, end, init)
        # Of shape (1,), since sharded optimizers refuse parameters without one.
        self.theta = nn.Parameter(torch.full((1,), self.init))

    def raw(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        return self.theta.to(torch.promote_types(self.theta.dtype, torch.float32)).squeeze()
