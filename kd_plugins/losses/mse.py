"""MSE: squared differences of maps, what every other term on maps is compared with."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kd_plugins.losses.base import at_least_float32
from kd_plugins.losses.maps import MapsLoss, added
from kd_plugins.registry import MODELS

__all__ = ['MSELoss', 'mse_loss']


def mse_loss(preds_S: Tensor, preds_T: Tensor) -> Tensor:
    """Mean of the squared differences of two maps; 0 without pictures.

    Args:
        preds_S: The student's map, (N, C, H, W).
        preds_T: The teacher's, of that shape.

    Source: Romero, Ballas, Ebrahimi Kahou, Chassang, Gatta, Bengio, "FitNets: Hints for Thin
    Deep Nets", ICLR 2015, arXiv 1412.6550, equation 3, whose half of the sum is here a mean.
    """
    return (preds_S - preds_T).square().sum() / max(preds_S.numel(), 1)


@MODELS.register_module()
class MSELoss(MapsLoss):
    """:func:`mse_loss`, added up over the levels, times ``loss_weight``.

    Args:
        loss_weight: Factor of the loss.
        levels: Which levels take part, counted from 0; None for all.
        resize: ``'coarser'`` to average the larger of two maps over areas; None to refuse
            maps of other sizes.

    Raises:
        ValueError: On a setting out of range, or maps of other shapes.

    Source: as :func:`mse_loss`.
    """

    def __init__(
        self,
        loss_weight: float = 1.0,
        levels: Sequence[int] | None = None,
        resize: str | None = None,
    ) -> None:
        super().__init__(loss_weight, levels, resize)

    def forward(
        self, preds_S: Tensor | Sequence[Tensor], preds_T: Tensor | Sequence[Tensor]
    ) -> Tensor:
        """Return the loss, a scalar in float32 or better.

        Args:
            preds_S: The student's map, (N, C, H, W), or several, one a level.
            preds_T: The teacher's, of the same shapes; detached here.
        """
        parts = []
        for x_S, x_T in self._maps(preds_S, preds_T):
            self._check_channels(x_S, x_T)
            parts.append(mse_loss(at_least_float32(x_S), x_T))
        return added(parts) * self.loss_weight
