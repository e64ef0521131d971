"""Another package's loss, times a weight."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from kd_plugins.losses.base import WeightedLoss
from kd_plugins.registry import MODELS

__all__ = ['Weighted']


@MODELS.register_module()
class Weighted(WeightedLoss):
    """A loss that has no weight, or ignores its own, times ``loss_weight``.

    mmrazor 1.0.0's CRDLoss is such a loss: its ``loss_weight`` has no effect.

    Args:
        loss: Config of the loss.
        loss_weight: Factor of it.

    Raises:
        ValueError: On a weight out of range.
    """

    def __init__(self, loss: Mapping[str, Any] | nn.Module, loss_weight: float) -> None:
        super().__init__(loss_weight)
        self.loss = loss if isinstance(loss, nn.Module) else MODELS.build(dict(loss))

    @property
    def forward(self) -> Callable[..., Tensor]:  # type: ignore[override]
        """Return the call; its signature is that of the loss's own forward."""

        @functools.wraps(self.loss.forward)
        def forward(*args: Any, **kwargs: Any) -> Tensor:
            return self.loss(*args, **kwargs) * self.loss_weight

        return forward

    @property
    def lower_bound(self) -> float | None:  # type: ignore[override]
        """What the loss is never below; 0 for another package's, which does not say."""
        bound = getattr(self.loss, 'lower_bound', 0.0)
        return None if bound is None else bound * getattr(self.loss, 'loss_weight', 1.0)

    @property
    def needs_labels(self) -> bool:
        """Whether the loss needs labels that its signature could do without."""
        return getattr(self.loss, 'needs_labels', False)

    @property
    def without_labels(self) -> str:
        """What the loss says can be done without labels."""
        return getattr(self.loss, 'without_labels', 'take a term that needs none')
