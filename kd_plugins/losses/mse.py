"""MSE: squared differences of maps, what every other term on maps is compared with."""

from __future__ import annotations

from torch import Tensor

from kd_plugins.losses.maps import LevelsLoss
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
class MSELoss(LevelsLoss):
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

    def compare(self, x_S: Tensor, x_T: Tensor) -> Tensor:
        """Return :func:`mse_loss` of one level."""
        return mse_loss(x_S, x_T)
