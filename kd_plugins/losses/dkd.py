"""DKD: decoupled knowledge distillation."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.losses.base import MIXTURE, LogitsLoss, agreement, batch_mean, check_labels
from kd_plugins.registry import MODELS
from kd_plugins.schedules import warmup as warmup_of
from kd_plugins.temperatures.base import per_sample


def dkd_loss(
    preds_S: Tensor, preds_T: Tensor, target: Tensor, tau: float | Tensor
) -> tuple[Tensor, Tensor]:
    r"""The two parts of DKD per sample, computed in log space throughout.

    With p the softmax at temperature tau and t the target class,

    * ``TCKD = tau^2 * KL((p_t, 1 - p_t)_T || (p_t, 1 - p_t)_S)``,
    * ``NCKD = tau^2 * KL(q_T || q_S)``, q the softmax over the other C - 1
      classes,

    so that ``KD = TCKD + (1 - p_t of the teacher) * NCKD``.

    Args:
        preds_S: The student's logits, shape (N, C).
        preds_T: The teacher's logits, shape (N, C).
        target: The target classes, integers of shape (N,) in [0, C).
        tau: The temperature, above 0: a number, or a tensor of shape () or
            (N, 1).

    Returns:
        TCKD and NCKD, each of shape (N,), at least 0 up to rounding. With two
        classes NCKD is identically 0.

    Source: Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, arXiv
    2203.08679, equations 5 to 7. The published code masks the target by
    subtracting 1000 from its logit and takes the logarithm of a softmax, which
    is infinite for confident students and has no gradient in tau; the
    logarithms here are never taken of a rounded probability.
    """
    is_target = F.one_hot(target, preds_S.shape[1]).bool()
    target_S, others_S = _split(preds_S / tau, is_target)
    target_T, others_T = _split(preds_T / tau, is_target)
    # log p_t and log (1 - p_t) of the binary pair, from the log-odds of the target.
    log_hit_S, log_miss_S = F.logsigmoid(target_S), F.logsigmoid(-target_S)
    log_hit_T, log_miss_T = F.logsigmoid(target_T), F.logsigmoid(-target_T)
    tckd = log_hit_T.exp() * (log_hit_T - log_hit_S) + log_miss_T.exp() * (log_miss_T - log_miss_S)
    # In the target's own column both are 0, so it adds nothing.
    nckd = (others_T.exp() * (others_T - others_S)).sum(dim=1)
    scale = per_sample(tau) ** 2
    return tckd * scale, nckd * scale


def _split(logits: Tensor, is_target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the target's log-odds, (N,), and log q of the others, (N, C).

    The target's own column of log q is 0, set before any exponential, so that
    neither its value nor its gradient can be infinite.
    """
    log_sum_others = logits.masked_fill(is_target, -torch.inf).logsumexp(dim=1)
    log_odds = logits.masked_fill(~is_target, 0).sum(dim=1) - log_sum_others
    log_q = (logits - log_sum_others[:, None]).masked_fill(is_target, 0)
    return log_odds, log_q


@MODELS.register_module()
class DKDLoss(LogitsLoss):
    """``alpha * TCKD + beta * NCKD``, averaged over the batch.

    Args:
        tau: The temperature: a number above 0 or a temperature module.
        alpha: Weight of the target class part, TCKD.
        beta: Weight of the non-target class part, NCKD. The paper's values
            depend on the pair: 2, 6 or 8 on CIFAR-100, 0.5 or 2 on ImageNet.
        loss_weight: Factor of the whole loss.
        warmup: Epochs over which the whole loss grows linearly,
            ``min(epoch / warmup, 1)`` with epochs counted from 1; 1 means no
            warm-up (the paper: 20 on CIFAR-100, 1 on ImageNet). For a loop
            without epochs: ``dict(length=..., by_epoch=False)``. It must fit
            into the training.

    Raises:
        ValueError: On values out of range, shapes that differ, labels that are
            neither classes nor a mixture of two classes per sample, or, in the
            first step, a warm-up longer than the training.
    """

    #: Of how many classes a label may be made; parts that mix more are refused beside it.
    classes_per_label = 2
    needs_labels = True
    #: What to do where there are none.
    without_labels = (
        "set its missing_label='teacher', which takes the teacher's first class for the label, or "
        'use kd_plugins.KDLoss, which needs none'
    )

    def __init__(
        self,
        tau: float | Mapping[str, Any] | nn.Module = 4.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        loss_weight: float = 1.0,
        warmup: int | Mapping[str, Any] = 1,
        missing_label: str | None = None,
    ) -> None:
        super().__init__(tau, loss_weight)
        checks.one_of('DKDLoss.missing_label', missing_label, (None, 'teacher'))
        self.needs_labels = missing_label is None
        self.alpha = self._check_weight('alpha', alpha)
        self.beta = self._check_weight('beta', beta)
        self.warmup = warmup_of(warmup, 'DKDLoss.warmup')
        self._first_call = True

    def forward(self, preds_S: Tensor, preds_T: Tensor, gt_labels: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar in float32 or better.

        Args:
            preds_S: The student's logits, shape (N, C).
            preds_T: The teacher's logits, shape (N, C); detached here.
            gt_labels: The classes, integers of shape (N,); or the mixed labels
                of mixup and cutmix, shape (N, C), at most two classes a
                sample: the loss is then the same mixture of the losses for
                the two classes, as cross-entropy is. None for pictures without
                labels, see ``missing_label``.
        """
        factor = self.warmup(self.progress) * self.loss_weight
        preds_S, preds_T, tau = self._prepare(preds_S, preds_T)
        gt_labels = self._targets(preds_T, gt_labels)
        if self._first_call:
            self._check_first_batch(gt_labels, preds_S.shape[1])
            self._first_call = False
        tckd, nckd = self._parts(preds_S, preds_T, gt_labels, tau)
        return batch_mean(self.alpha * tckd + self.beta * nckd) * factor

    def diagnose(
        self, preds_S: Tensor, preds_T: Tensor, gt_labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the agreement, and both parts as batch means, without weights and warm-up.

        For :class:`kd_plugins.hooks.DistillationLogHook`.
        """
        preds_S, preds_T, tau = self._prepare(preds_S, preds_T)
        tckd, nckd = self._parts(preds_S, preds_T, self._targets(preds_T, gt_labels), tau)
        seen = dict(tckd=batch_mean(tckd), nckd=batch_mean(nckd))
        return dict(seen, agreement=agreement(preds_S, preds_T))

    def _targets(self, preds_T: Tensor, gt_labels: Tensor | None) -> Tensor:
        """Return the labels, or what stands for them; their shape is looked at in every batch."""
        if gt_labels is not None:
            check_labels(type(self).__name__, gt_labels, preds_T)
            return gt_labels
        if self.needs_labels:
            raise ValueError(
                "DKDLoss.gt_labels=None: it splits the teacher's answer at the label; "
                f'{self.without_labels}.'
            )
        return preds_T.argmax(dim=1)

    def _parts(
        self, preds_S: Tensor, preds_T: Tensor, gt_labels: Tensor, tau: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return TCKD and NCKD per sample; of mixed labels, the same mixture of both."""
        if gt_labels.dim() == 1:
            return dkd_loss(preds_S, preds_T, gt_labels, tau)
        labels = gt_labels.to(preds_S.dtype)
        share, classes = labels.topk(2, dim=1)
        # Later batches are not looked at by the host: what is no mixture of two makes the
        # loss NaN, which is seen, in the place of one that leaves labels out.
        mixture = (share.sum(dim=1) - 1).abs().maximum((labels.sum(dim=1) - 1).abs()) < MIXTURE
        share = share.masked_fill(~mixture[:, None], torch.nan)
        first, second = (dkd_loss(preds_S, preds_T, classes[:, i], tau) for i in range(2))
        tckd, nckd = (share[:, 0] * a + share[:, 1] * b for a, b in zip(first, second, strict=True))
        return tckd, nckd

    def _check_first_batch(self, gt_labels: Tensor, classes: int) -> None:
        """Look at the values of the labels, once: it costs a synchronisation."""
        if classes == 2 and self.beta > 0:
            warnings.warn(
                'DKDLoss: with 2 classes there is one non-target class, so NCKD is always 0 and '
                f'beta={self.beta:g} has no effect; KDLoss says the same with one number less.',
                stacklevel=3,
            )
        if gt_labels.dim() == 1:
            return
        labels = gt_labels.float()
        two_largest, sums = labels.topk(2, dim=1).values.sum(dim=1), labels.sum(dim=1)
        if not torch.allclose(sums, torch.ones_like(sums), atol=MIXTURE):
            raise ValueError(
                'DKDLoss.gt_labels has pictures whose labels sum to '
                f'{sums[(sums - 1).abs().argmax()]:g}: they have several classes, or none, and '
                "DKD's classes share a softmax. Use kd_plugins.SigmoidKDLoss."
            )
        if not torch.allclose(two_largest, sums, atol=MIXTURE):
            raise ValueError(
                f'DKDLoss.gt_labels of shape {tuple(gt_labels.shape)} spread a label over more '
                'than two classes (label smoothing?): give classes, or labels that mixup or '
                'cutmix mixed from two, and smooth them inside the classification loss instead.'
            )
