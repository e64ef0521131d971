"""PKD: every channel is to be correlated with the teacher's."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from kd_plugins.losses.maps import LevelsLoss, standardized, values_per_channel
from kd_plugins.registry import MODELS

__all__ = ['PKDLoss', 'pkd_loss']


def pkd_loss(preds_S: Tensor, preds_T: Tensor) -> Tensor:
    """Half the mean squared difference of both maps, standardised channel by channel.

    A channel's mean and its unbiased deviation are taken over the batch and all positions. With n
    values a channel that is ``(1 - mean r) * (n - 1) / n``, r being Pearson's correlation of a
    channel with the teacher's.

    Args:
        preds_S: The student's map, shape (N, C, H, W).
        preds_T: The teacher's, of that shape.

    Returns:
        Scalar, from 0 to 2; 0 where a channel has fewer than two values. A channel that is
        constant has no correlation, and a gradient within a thousand times that of the others.

    Source: Cao, Zhang, Gao, Cheng, Cheng, Zhang, "PKD: General Distillation Framework for Object
    Detectors via Pearson Correlation Coefficient", NeurIPS 2022, arXiv 2207.02039, equations 2
    to 4; the constant 1e-6 is that of mmrazor and of github.com/jbwang1997/CrossKD.
    """
    if values_per_channel(preds_S) < 2:
        return preds_S.sum() * 0
    return F.mse_loss(standardized(preds_S), standardized(preds_T)) / 2


@MODELS.register_module()
class PKDLoss(LevelsLoss):
    """:func:`pkd_loss`, added up over the levels, times ``loss_weight``.

    In a config ``kd_plugins.PKDLoss``; mmrazor's loss of that name is the same where no channel
    of the student is constant. Such a channel gets a gradient a million times as large there, a
    level of one position and one picture NaN, and only the heights are compared before maps are
    resized.

    Args:
        loss_weight: Factor of the loss. Published: 6 between two-stage detectors, 10 between
            dense ones.
        levels: Which levels take part, counted from 0; None for all. Published: the first four of
            five, ``(0, 1, 2, 3)``.
        resize: ``'coarser'`` to average the larger of two maps over areas; None to resize
            the student's to the teacher's, bilinearly, as published.

    Raises:
        ValueError: On a setting out of range, or maps of other channels or levels.

    Source: as :func:`pkd_loss`.
    """

    resizes = True

    def __init__(
        self,
        loss_weight: float = 10.0,
        levels: Sequence[int] | None = None,
        resize: str | None = None,
    ) -> None:
        super().__init__(loss_weight, levels, resize)

    def compare(self, x_S: Tensor, x_T: Tensor) -> Tensor:
        """Return :func:`pkd_loss` of one level, the student's map brought to the teacher's size."""
        if x_S.shape[2:] != x_T.shape[2:]:
            x_S = F.interpolate(x_S, x_T.shape[2:], mode='bilinear')
        return pkd_loss(x_S, x_T)
