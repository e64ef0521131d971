"""CTKD: what learned temperatures share, their range and learning against the student."""

from __future__ import annotations

import torch
from torch import Tensor

from kd_plugins import checks
from kd_plugins.schedules import Schedule, descent
from kd_plugins.temperatures.base import Temperature
from kd_plugins.temperatures.gradient_reversal import scale_gradient

# The published curriculum on CIFAR-100: from 0 to -1 over the first 10 epochs.
PUBLISHED_CURRICULUM = descent(
    'cosine', max=0.0, min=-1.0, length=10, name="CTKD's default curriculum"
)


class LearnedTemperature(Temperature):
    """``tau = start + end * sigmoid(raw)``, trained to make the loss larger.

    The gradient that reaches ``raw`` is multiplied by lambda, which goes from
    0 to -1 along :attr:`curriculum`: the temperature first hardly learns, then
    learns against the student. Without a hook the curriculum is the published
    one; ``kd_plugins.CurriculumTemperatureHook`` sets another.

    Args:
        start: Lower end of the range, finite and above 0; approached, not reached.
        end: Width of the range (the published name), finite and above 0: tau
            lies in (start, start + end).
        init: Initial raw value, finite. 1 gives tau 15.62 in the range (1, 21).

    Attributes:
        curriculum: The schedule of lambda, a pure function of the progress.
        last: The latest tau, detached, of shape () or (N, 1); None before the
            first call. The hook logs it.

    Raises:
        ValueError: If the range reaches 0, or a number is none.

    Source: Li et al., "Curriculum Temperature for Knowledge Distillation",
    AAAI 2023, arXiv 2211.16231, equations 3 to 6; constants of
    github.com/zhengli97/CTKD.
    """

    def __init__(self, start: float = 1.0, end: float = 20.0, init: float = 1.0) -> None:
        super().__init__()
        name = type(self).__name__
        self.start = checks.number(
            f'{name}.start', start, 'a lower end of the temperature, above 0', above=0
        )
        self.end = checks.number(
            f'{name}.end', end, 'the width of the range of temperatures, above 0', above=0
        )
        self.init = checks.number(f'{name}.init', init, 'an initial raw value, finite')
        self.curriculum: Schedule = PUBLISHED_CURRICULUM
        self.last: Tensor | None = None

    def raw(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return the raw value, of shape () or (N, 1), in float32 or better."""
        raise NotImplementedError

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return tau for logits of shape (N, C).

        Raises:
            RuntimeError: If nobody said how far the training is.
            ValueError: If the curriculum does not fit the training.
        """
        strength = self.curriculum(self.progress)
        raw = scale_gradient(self.raw(preds_S, preds_T), strength)
        tau = self.start + self.end * torch.sigmoid(raw)
        self.last = tau.detach()
        return tau

    def extra_repr(self) -> str:
        return f'start={self.start}, end={self.end}'
