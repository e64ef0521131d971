"""WTTM and TTM: only the teacher has a temperature, and smooth answers count more."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kd_plugins import checks
from kd_plugins.losses.base import LogitsLoss, agreement, batch_mean
from kd_plugins.registry import MODELS

__all__ = ['WTTMLoss', 'wttm_loss']


def wttm_loss(preds_S: Tensor, preds_T: Tensor, gamma: float, weighted: bool = True) -> Tensor:
    r"""``w * KL(softmax(gamma * z_T) || softmax(z_S))`` per sample.

    ``softmax(gamma * z_T)`` is the teacher's distribution p to the power of gamma, over its
    sum, and this sum is the sample's weight: ``w = sum_c p_c^gamma``, from 1 for a teacher
    that is sure of one class to ``C^(1 - gamma)`` for one that knows nothing.

    Args:
        preds_S: The student's logits, shape (N, C).
        preds_T: The teacher's logits, shape (N, C).
        gamma: The power, above 0; 1 over it is the teacher's temperature.
        weighted: Whether w is as above (WTTM), or 1 (TTM).

    Returns:
        Tensor of shape (N,), at least 0 up to rounding. There is no square of a temperature.

    Source: Zheng, Yang, "Knowledge Distillation Based on Transformed Teacher Matching", ICLR
    2024, arXiv 2402.11148, sections 3 and 4. The published code (github.com/zkxufo/TTM) raises
    rounded probabilities to the power, and loses those that are 0 in float32; here logits are
    multiplied.
    """
    log_p_S = F.log_softmax(preds_S, dim=1)
    log_u = F.log_softmax(gamma * preds_T, dim=1)
    kl = (log_u.exp() * (log_u - log_p_S)).sum(dim=1)
    if not weighted:
        return kl
    return kl * (gamma * F.log_softmax(preds_T, dim=1)).logsumexp(dim=1).exp()


@MODELS.register_module()
class WTTMLoss(LogitsLoss):
    """:func:`wttm_loss`, averaged over the batch, times ``loss_weight``.

    Labels are not used. There is no ``tau``: the student's temperature is 1.

    Args:
        gamma: The power of the teacher's probabilities, above 0 and at most 1. The authors
            print 0.1 for TTM and 0.2 for WTTM beside CRD, both from VGG-13 to VGG-8; those of
            the other pairs are not in their repository.
        loss_weight: Factor of the loss; 45 and 4 there. The weights of samples reach
            ``C^(1 - gamma)``, so that it depends on the number of classes.
        weighted: False for TTM.

    Raises:
        ValueError: On a setting out of range, or logits whose shapes differ.

    Source: as :func:`wttm_loss`.
    """

    def __init__(self, gamma: float = 0.2, loss_weight: float = 4.0, weighted: bool = True) -> None:
        super().__init__(1.0, loss_weight)
        right = "the power of the teacher's probabilities, above 0 and at most 1"
        self.gamma = checks.number('WTTMLoss.gamma', gamma, right, above=0)
        if gamma > 1:
            raise checks.refuse('WTTMLoss.gamma', gamma, right)
        self.weighted = checks.flag('WTTMLoss.weighted', weighted)

    def forward(self, preds_S: Tensor, preds_T: Tensor, gt_labels: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar in float32 or better.

        Args:
            preds_S: The student's logits, shape (N, C).
            preds_T: The teacher's logits, shape (N, C); detached here.
            gt_labels: Not used; accepted so that terms can be exchanged in a config.
        """
        preds_S, preds_T, _ = self._prepare(preds_S, preds_T)
        loss = wttm_loss(preds_S, preds_T, self.gamma, self.weighted)
        return batch_mean(loss) * self.loss_weight

    def diagnose(
        self, preds_S: Tensor, preds_T: Tensor, gt_labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the agreement, for :class:`kd_plugins.hooks.DistillationLogHook`."""
        return dict(agreement=agreement(preds_S, preds_T))
