"""LSKD: logits are standardised before the temperature divides them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.registry import MODELS
from kd_plugins.temperatures.base import Temperature, as_temperature

#: Added to every deviation in the published code.
EPS = 1e-7


def standardized(logits: Tensor, floor: float = 0.0) -> Tensor:
    """``(z - mean z) / (std z + 1e-7)`` over the classes of each sample.

    Args:
        logits: Logits, shape (..., C), in float32 or better, C at least 2.
        floor: The least deviation that is divided by. A smaller one is a sample whose
            classes are all but equal: noise would be enlarged, and the gradient, which
            goes through mean and deviation, is divided by the deviation.

    Returns:
        Tensor of that shape, with mean 0 and the unbiased deviation 1.

    Source: Sun, Ren, Li, Wang, Cao, "Logit Standardization in Knowledge Distillation",
    CVPR 2024, arXiv 2403.01427, algorithm 1; the constant is that of
    github.com/sunshangquan/logit-standardization-KD.
    """
    mean, std = logits.mean(dim=-1, keepdim=True), logits.std(dim=-1, keepdim=True)
    return (logits - mean) / (std.clamp_min(floor) + EPS)


@MODELS.register_module()
class LSKDTemperature(Temperature):
    """A temperature of standardised logits (LSKD), for any loss that takes a ``tau``.

    The loss sees both networks' logits :func:`standardized` and divides them by the base
    temperature. So it does not change if either network's logits are multiplied by a
    number above 0, or shifted: the student need not reach the teacher's range. The
    student's own loss sees the logits as they are.

    Args:
        tau: The base temperature: a number above 0 or a temperature module, such as
            ``dict(type='kd_plugins.GlobalTemperature')`` for LSKD with CTKD. It reads the
            logits as they are.
        floor: The least deviation of a sample's logits that is divided by, at least 0. A
            classifier that starts at 0 has a deviation of 0, and a gradient of up to 1e7
            with 0, the published code's.

    Raises:
        ValueError: On a setting out of range, or logits of two classes: standardised, they
            are always 0.707 and -0.707, which teach nothing.

    Source: as :func:`standardized`.
    """

    def __init__(
        self, tau: float | Mapping[str, Any] | nn.Module = 2.0, floor: float = 0.1
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.tau = as_temperature(tau, f'{name}.tau')
        self.floor = checks.number(
            f'{name}.floor', floor, 'the least deviation of logits, 0 or above', least=0
        )

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> float | Tensor:
        return self.tau(preds_S, preds_T)

    def transform(self, preds_S: Tensor, preds_T: Tensor) -> tuple[Tensor, Tensor]:
        if preds_S.dim() != 2:
            raise ValueError(
                f'{type(self).__name__} standardises logits of shape (N, C) over the classes, but '
                f'preds_S has {tuple(preds_S.shape)}: give tau a number.'
            )
        self.check_classes(type(self).__name__, preds_S.shape[1])
        return standardized(preds_S, self.floor), standardized(preds_T, self.floor)

    def check_classes(self, key: str, number: int) -> None:
        if number < 3:
            raise ValueError(
                f'{key} needs logits of at least 3 classes, but they have {number}: standardised, '
                'two logits only say which is larger. Give tau a number.'
            )

    def extra_repr(self) -> str:
        return f'floor={self.floor}'
