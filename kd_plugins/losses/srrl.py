"""SRRL: the teacher's classifier reads the student's features."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.losses.base import WeightedLoss, at_least_float32, check_features, full_precision
from kd_plugins.registry import MODELS

__all__ = ['SRRLLoss', 'srrl_loss']


def srrl_loss(
    preds_S: Tensor, preds_T: Tensor, weight_T: Tensor, bias_T: Tensor | None = None
) -> Tensor:
    """Mean squared difference of the features, plus that of what the classifier says.

    Args:
        preds_S: The student's features in the teacher's space, shape (N, C_T).
        preds_T: The teacher's pooled features, shape (N, C_T).
        weight_T: Weight of the teacher's classifier, shape (classes, C_T).
        bias_T: Its bias, shape (classes,).

    Returns:
        Scalar: ``mean((h_T - h_S)^2) + mean((W h_T - W h_S)^2)``; each mean is
        over all elements, as in published uses.

    Source: Yang, Martinez, Bulat, Tzimiropoulos, "Knowledge Distillation via
    Softmax Regression Representation Learning", ICLR 2021, equations 3 and 5
    (L_FM, and L_SR as the squared difference of logits).
    """
    logits_S, logits_T = (F.linear(x, weight_T, bias_T) for x in (preds_S, preds_T))
    pairs = ((preds_S, preds_T), (logits_S, logits_T))
    return sum(
        ((a - b).square().sum() / max(a.numel(), 1) for a, b in pairs), preds_S.new_zeros(())
    )


@MODELS.register_module()
class SRRLLoss(WeightedLoss):
    """:func:`srrl_loss` behind a learned map of the student's features.

    The map is linear without bias, then batch normalisation and ReLU; trained
    by the student's optimizer and kept in checkpoints as ``distiller.*``.
    Record the teacher's classifier with mmrazor's ``Parameter`` recorder.

    Args:
        channels_S: Channels of the student's pooled features.
        channels_T: Channels of the teacher's pooled features.
        loss_weight: Factor of the loss; 1 is usual.

    Raises:
        ValueError: On a setting out of range, or features of other shapes.

    Source: as :func:`srrl_loss`; the map is that of
    github.com/jingyang2017/KD_SRRL.
    """

    def __init__(self, channels_S: int, channels_T: int, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        for key, value in (('channels_S', channels_S), ('channels_T', channels_T)):
            checks.whole_number(f'SRRLLoss.{key}', value)
        self.transfer = nn.Sequential(
            nn.Linear(channels_S, channels_T, bias=False),
            nn.BatchNorm1d(channels_T),
            nn.ReLU(inplace=True),
        )

    def forward(
        self, preds_S: Tensor, preds_T: Tensor, weight_T: Tensor, bias_T: Tensor | None = None
    ) -> Tensor:
        """Return the loss, a scalar in float32 or better.

        Args:
            preds_S: The student's pooled features, shape (N, channels_S).
            preds_T: The teacher's, shape (N, channels_T); detached here.
            weight_T: Weight of the teacher's classifier, shape (classes,
                channels_T); gives gradients, receives none.
            bias_T: Its bias, shape (classes,).
        """
        check_features('SRRLLoss', preds_S, preds_T, dim=2)
        expected = self.transfer[0].in_features, self.transfer[0].out_features
        if (preds_S.shape[1], preds_T.shape[1], weight_T.shape[1]) != (*expected, expected[1]):
            raise ValueError(
                f'SRRLLoss.channels_S={expected[0]}, channels_T={expected[1]} do not fit features '
                f'of shape {tuple(preds_S.shape)} (student) and {tuple(preds_T.shape)} (teacher) '
                f'and a classifier of {tuple(weight_T.shape)}.'
            )
        mapped = at_least_float32(self.transfer(preds_S))
        preds_T, weight_T = (at_least_float32(x.detach()) for x in (preds_T, weight_T))
        bias_T = None if bias_T is None else at_least_float32(bias_T.detach())
        with full_precision(mapped):
            return srrl_loss(mapped, preds_T, weight_T, bias_T) * self.loss_weight
