"""What a temperature is, and the constant one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.registry import MODELS
from kd_plugins.structures import Progress


class Temperature(nn.Module):
    """Base class of temperatures.

    A temperature returns, for a batch of logits, either one number (a float or
    a tensor of shape ``()``) or one per sample (a tensor of shape ``(N, 1)``).
    Losses multiply ``tau ** 2`` per sample, so they need not know which.
    """

    progress: Progress | None = None

    def set_progress(self, progress: Progress | None) -> None:
        """Take the progress of the training; called before every step."""
        self.progress = progress

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> float | Tensor:
        """Return tau for logits of shape (N, C)."""
        raise NotImplementedError

    def transform(self, preds_S: Tensor, preds_T: Tensor) -> tuple[Tensor, Tensor]:
        """Return both logits as the loss divides them by tau; here they are what they were.

        Args:
            preds_S: The student's logits, shape (N, C), in float32 or better.
            preds_T: The teacher's, detached: shape (N, C), or (N, M, C) of M teachers.
        """
        return preds_S, preds_T

    def check_classes(self, key: str, number: int) -> None:
        """Refuse logits of so many classes; ``key`` is what the user calls this temperature."""


@MODELS.register_module()
class FixedTemperature(Temperature):
    """A temperature that never changes.

    Args:
        value: The temperature, finite and above 0.
        name: What the user calls this setting, for error messages.

    Raises:
        ValueError: If ``value`` is not a finite number above 0.
    """

    def __init__(self, value: float, name: str = 'tau') -> None:
        super().__init__()
        self.value = checks.number(
            name,
            value,
            'a temperature, a finite number above 0 (4 is usual on CIFAR-100, 1 on ImageNet), or '
            'a temperature module',
            above=0,
        )

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> float:
        return self.value

    def extra_repr(self) -> str:
        return f'{self.value}'


def as_temperature(tau: float | Mapping[str, Any] | nn.Module, name: str = 'tau') -> nn.Module:
    """Turn what a config gives for ``tau`` into a temperature module.

    Args:
        tau: A number, the config of a registered temperature such as
            ``dict(type='kd_plugins.GlobalTemperature')``, or a module.
        name: What the user calls this setting, for error messages.
    """
    if isinstance(tau, nn.Module):
        return tau
    if isinstance(tau, Mapping):
        return MODELS.build(dict(tau))
    return FixedTemperature(tau, name)


def per_sample(tau: float | Tensor) -> float | Tensor:
    """``tau`` with shape () or (N,), to scale a loss of shape (N,)."""
    if isinstance(tau, Tensor) and tau.dim() == 2:
        return tau.squeeze(1)
    return tau
