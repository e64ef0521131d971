"""KD: the classical distillation of logits with a temperature."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_plugins.losses.base import (
    LogitsLoss,
    agreement,
    at_least_float32,
    batch_mean,
    check_top_logits,
)
from kd_plugins.registry import MODELS
from kd_plugins.structures import TopLogits
from kd_plugins.temperatures.base import per_sample

__all__ = ['KDLoss', 'kd_loss']


def kd_loss(preds_S: Tensor, preds_T: Tensor, tau: float | Tensor) -> Tensor:
    r"""``tau^2 * KL(softmax(z_T / tau) || softmax(z_S / tau))`` per sample.

    Args:
        preds_S: The student's logits, shape (N, C).
        preds_T: The teacher's logits, shape (N, C).
        tau: The temperature, above 0: a number, or a tensor of shape () or
            (N, 1). Gradients reach it through both softmaxes and the square.

    Returns:
        Tensor of shape (N,), at least 0 up to rounding, in nats times tau^2.

    Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural
    Network", arXiv 1503.02531, section 2 and 2.1.
    """
    log_p_S = F.log_softmax(preds_S / tau, dim=1)
    log_p_T = F.log_softmax(preds_T / tau, dim=1)
    kl = (log_p_T.exp() * (log_p_T - log_p_S)).sum(dim=1)
    return kl * per_sample(tau) ** 2


def kd_top_loss(preds_S: Tensor, preds_T: TopLogits, tau: float) -> Tensor:
    r""":func:`kd_loss` where all classes but the teacher's k largest count as one.

    It is never above :func:`kd_loss`, and equal to it where student and teacher agree on how
    the other classes share what is left to them.

    Args:
        preds_S: The student's logits, shape (N, C).
        preds_T: The teacher's k largest, with the log-sum-exp of the others at ``tau``.
        tau: One of its temperatures.

    Returns:
        Tensor of shape (N,), at least 0 up to rounding, in nats times tau^2.
    """
    z_S = preds_S / tau
    others = z_S.scatter(1, preds_T.indices, -math.inf).logsumexp(dim=1, keepdim=True)
    rest = preds_T.rest[:, preds_T.taus.index(tau), None]
    log_p_S = F.log_softmax(torch.cat([z_S.gather(1, preds_T.indices), others], dim=1), dim=1)
    log_p_T = F.log_softmax(torch.cat([preds_T.values / tau, rest], dim=1), dim=1)
    return (log_p_T.exp() * (log_p_T - log_p_S)).sum(dim=1) * tau**2


@MODELS.register_module()
class KDLoss(LogitsLoss):
    """:func:`kd_loss`, averaged over the batch, times ``loss_weight``.

    Labels are not used.

    Args:
        tau: The temperature: a number above 0 or a temperature module.
        loss_weight: Factor of the loss.

    Raises:
        ValueError: On a temperature or weight out of range, or logits whose
            shapes differ.
    """

    #: Arguments that may be :class:`kd_plugins.structures.TopLogits`.
    top_logits = ('preds_T',)

    def __init__(
        self, tau: float | Mapping[str, Any] | nn.Module = 4.0, loss_weight: float = 1.0
    ) -> None:
        super().__init__(tau, loss_weight)

    def forward(
        self,
        preds_S: Tensor,
        preds_T: Tensor | TopLogits,
        gt_labels: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Return the loss, a scalar in float32 or better.

        Args:
            preds_S: The student's logits, shape (N, C).
            preds_T: The teacher's logits, shape (N, C), or the largest of them; detached
                here.
            gt_labels: Not used; accepted so that KD and DKD can be exchanged
                in a config.
            weights: Factors of the samples, (N,), as :class:`kd_plugins.losses.RoILoss` has
                them of RoIs; None for 1.
        """
        if isinstance(preds_T, TopLogits):
            check_top_logits(type(self).__name__, preds_S, preds_T)
            losses = kd_top_loss(at_least_float32(preds_S), preds_T, self.tau(preds_S, preds_T))
            return batch_mean(losses, weights) * self.loss_weight
        preds_S, preds_T, tau = self._prepare(preds_S, preds_T)
        return batch_mean(kd_loss(preds_S, preds_T, tau), weights) * self.loss_weight

    def diagnose(
        self,
        preds_S: Tensor,
        preds_T: Tensor | TopLogits,
        gt_labels: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the agreement, for :class:`kd_plugins.hooks.DistillationLogHook`."""
        if isinstance(preds_T, TopLogits):
            same = preds_S.argmax(1) == preds_T.indices[:, 0]
            return dict(agreement=100 * batch_mean(same.float()))
        return dict(agreement=agreement(preds_S, preds_T))
