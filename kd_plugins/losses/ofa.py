"""OFA-KD: the label is added to the teacher's answer, for networks that know little in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.losses.base import MIXTURE, LogitsLoss, agreement, batch_mean, check_labels
from kd_plugins.registry import MODELS


def ofa_loss(preds_S: Tensor, preds_T: Tensor, labels: Tensor, eps: float) -> Tensor:
    """``-sum over classes of ((p_T + y)^eps - y) * log p_S`` per sample.

    y is 1 for the label and 0 for the other classes. With ``eps`` 1 it is the cross-entropy with
    the teacher's answer; the larger it is, the more the label counts beside it.

    Args:
        preds_S: The student's logits, over the temperature if there is one, shape (N, C).
        preds_T: The teacher's, likewise.
        labels: Classes, integers of shape (N,).
        eps: The exponent, above 0.

    Returns:
        Tensor of shape (N,), at least 0.

    Source: Hao, Guo, Han, Tang, Hu, Wang, Xu, "One-for-All: Bridge the Gap Between Heterogeneous
    Architectures in Knowledge Distillation", NeurIPS 2023, arXiv 2310.19444, equation 7;
    github.com/Hao840/OFAKD at f7bb896, distillers/ofa.py.
    """
    y = F.one_hot(labels, preds_S.shape[1]).to(preds_T.dtype)
    target = (preds_T.softmax(dim=1) + y) ** eps - y
    return -(target * preds_S.log_softmax(dim=1)).sum(dim=1)


@MODELS.register_module()
class OFALoss(LogitsLoss):
    """:func:`ofa_loss`, averaged over the batch.

    In a config ``kd_plugins.OFALoss``: once on the student's own logits, and once on what each
    branch, ``kd_plugins.OFAMapBranch`` or ``kd_plugins.OFATokenBranch``, makes of a stage of it.

    Args:
        eps: The exponent, above 0. Published: 1.5 from DeiT-Ti to ResNet-18 on ImageNet, 1 as
            a default.
        tau: The temperature: a number above 0 or a temperature module; published: 1. The loss is
            not multiplied by its square.
        loss_weight: Factor of the loss; published: 1.

    Raises:
        ValueError: On values out of range, or labels that do not fit.

    Source: as :func:`ofa_loss`.
    """

    needs_labels = True
    without_labels = 'use kd_plugins.KDLoss, which needs none'

    def __init__(
        self,
        eps: float = 1.0,
        tau: float | Mapping[str, Any] | nn.Module = 1.0,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(tau, loss_weight)
        self.eps = checks.number('OFALoss.eps', eps, 'a finite exponent above 0', above=0)

    def forward(self, preds_S: Tensor, preds_T: Tensor, gt_labels: Tensor) -> Tensor:
        """Return the loss, a scalar in float32 or better.

        Args:
            preds_S: Logits of the student, or of a branch, shape (N, C).
            preds_T: The teacher's logits, shape (N, C); detached here.
            gt_labels: The classes, integers of shape (N,); or the mixed labels of mixup and
                cutmix, shape (N, C), whose largest class is the label, as published; where
                those of a picture do not sum to 1, the loss is NaN.
        """
        logits_S, logits_T, tau = self._prepare(preds_S, preds_T)
        check_labels(type(self).__name__, gt_labels, logits_S)
        several = None
        if gt_labels.dim() == 2:
            # Not looked at by the host: no number is seen, and a label left out is not.
            several = (gt_labels.float().sum(dim=1) - 1).abs() > MIXTURE
            gt_labels = gt_labels.argmax(dim=1)
        values = ofa_loss(logits_S / tau, logits_T / tau, gt_labels, self.eps)
        if several is not None:
            values = values.masked_fill(several, torch.nan)
        return batch_mean(values) * self.loss_weight

    def diagnose(self, preds_S: Tensor, preds_T: Tensor, gt_labels: Tensor) -> dict[str, Tensor]:
        """Return the agreement, for :class:`kd_plugins.hooks.DistillationLogHook`."""
        return dict(agreement=agreement(preds_S, preds_T))
