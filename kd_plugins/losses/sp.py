"""SP: similarities between the samples of a batch are preserved."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kd_plugins.losses.base import WeightedLoss, at_least_float32, check_features, full_precision
from kd_plugins.registry import MODELS

__all__ = ['SPLoss', 'sp_loss']


def sp_loss(preds_S: Tensor, preds_T: Tensor) -> Tensor:
    """``||G_T - G_S||^2 / N^2`` with the row-normalised similarities of each network.

    ``G`` is the (N, N) matrix of inner products of the flattened features, every
    row divided by its length.

    Args:
        preds_S: The student's features, shape (N, ...).
        preds_T: The teacher's, shape (N, ...), of any other size.

    Returns:
        Scalar, from 0 to 4 / N.

    Source: Tung, Mori, "Similarity-Preserving Knowledge Distillation", ICCV
    2019, arXiv 1907.09682, equations 1 to 4.
    """
    G_S, G_T = (F.normalize(x @ x.t(), dim=1) for x in (preds_S.flatten(1), preds_T.flatten(1)))
    return (G_T - G_S).square().sum() / max(len(preds_S), 1) ** 2


@MODELS.register_module()
class SPLoss(WeightedLoss):
    """:func:`sp_loss` times ``loss_weight``.

    Args:
        loss_weight: Factor of the loss; 3000 is usual on CIFAR-100.

    Raises:
        ValueError: On a weight out of range, or features of two batches.
    """

    def __init__(self, loss_weight: float = 3000.0) -> None:
        super().__init__(loss_weight)

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return the loss, a scalar in float32 or better; shapes as in :func:`sp_loss`."""
        check_features(type(self).__name__, preds_S, preds_T)
        preds_S, preds_T = at_least_float32(preds_S), at_least_float32(preds_T.detach())
        with full_precision(preds_S):
            return sp_loss(preds_S, preds_T) * self.loss_weight
