"""KD for classes that do not exclude each other: one sigmoid a class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kd_plugins.losses.base import LogitsLoss, batch_mean
from kd_plugins.registry import MODELS
from kd_plugins.temperatures import LSKDTemperature
from kd_plugins.temperatures.base import per_sample

__all__ = ['SigmoidKDLoss', 'sigmoid_kd_loss']


def sigmoid_kd_loss(preds_S: Tensor, preds_T: Tensor, tau: float | Tensor) -> Tensor:
    r"""``tau^2 * sum over classes of KL(sigmoid(z_T / tau) || sigmoid(z_S / tau))`` per sample.

    Args:
        preds_S: The student's logits, shape (N, C).
        preds_T: The teacher's logits, shape (N, C).
        tau: The temperature, above 0: a number, or a tensor of shape () or
            (N, 1). Gradients reach it through both sigmoids and the square.

    Returns:
        Tensor of shape (N,), at least 0 up to rounding, in nats times tau^2.

    Source: Yang, Xie, Ren, Yang et al., "Multi-Label Knowledge Distillation",
    ICCV 2023, arXiv 2308.06453, section 3.2 (one class against all others);
    Hinton's KD of each of the C binary distributions.
    """
    z_S, z_T = preds_S / tau, preds_T / tau
    yes = z_T.sigmoid() * (F.logsigmoid(z_T) - F.logsigmoid(z_S))
    no = (-z_T).sigmoid() * (F.logsigmoid(-z_T) - F.logsigmoid(-z_S))
    return (yes + no).sum(dim=1) * per_sample(tau) ** 2


@MODELS.register_module()
class SigmoidKDLoss(LogitsLoss):
    """:func:`sigmoid_kd_loss`, averaged over the batch, times ``loss_weight``.

    For multi-label classifiers, whose pictures have any number of classes.
    Labels are not used.

    Args:
        tau: The temperature: a number above 0 or a temperature module.
        loss_weight: Factor of the loss.

    Raises:
        ValueError: On a temperature or weight out of range, logits whose shapes
            differ, or a head whose classes share a softmax.
    """

    protocol = 'sigmoid'
    least_classes = 1

    def __init__(
        self, tau: float | Mapping[str, Any] | nn.Module = 1.0, loss_weight: float = 1.0
    ) -> None:
        super().__init__(tau, loss_weight)
        if isinstance(self.tau, LSKDTemperature):
            raise ValueError(
                'SigmoidKDLoss.tau=LSKDTemperature would take from every class whether it is in '
                'the picture, since standardised logits of a picture add up to 0: give a number.'
            )

    def forward(self, preds_S: Tensor, preds_T: Tensor, gt_labels: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar in float32 or better.

        Args:
            preds_S: The student's logits, shape (N, C).
            preds_T: The teacher's logits, shape (N, C); detached here.
            gt_labels: Not used; accepted as by the other losses on logits.
        """
        preds_S, preds_T, tau = self._prepare(preds_S, preds_T)
        return batch_mean(sigmoid_kd_loss(preds_S, preds_T, tau)) * self.loss_weight
