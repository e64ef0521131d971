"""DeiT: a token of the student answers as the teacher does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.losses.base import LogitsLoss, agreement, batch_mean
from kd_plugins.losses.kd import kd_loss
from kd_plugins.registry import MODELS

__all__ = ['DeiTLoss', 'hard_loss']

FORMS = ('hard', 'soft')
NORMALIZERS = ('published', 'mean')


def hard_loss(preds_S: Tensor, preds_T: Tensor) -> Tensor:
    """``CE(softmax(z_S), argmax z_T)`` per sample.

    Args:
        preds_S: The student's logits, shape (N, C).
        preds_T: The teacher's logits, shape (N, C).

    Returns:
        Tensor of shape (N,), in nats, without gradients to the teacher.

    Source: Touvron et al., "Training data-efficient image transformers &
    distillation through attention", ICML 2021, arXiv 2012.12877, equation 3.
    """
    return F.cross_entropy(preds_S, preds_T.argmax(dim=1), reduction='none')


class AnswerLoss(LogitsLoss):
    """Base of the losses that take over the teacher's answers, hard or soft.

    Args:
        form: ``'hard'``, the teacher's class (:func:`hard_loss`), or ``'soft'``,
            its distribution (:func:`kd_plugins.losses.kd_loss`).
        tau: The temperature of the soft form: a number above 0 or a
            temperature module.
        loss_weight: Factor of the loss.
        normalizer: What the soft form is divided by: ``'published'``, as the
            published code does, or ``'mean'``, the number of answers. The hard
            form is a mean over all answers in any case.

    Raises:
        ValueError: On values out of range, or a temperature that the hard form
            would ignore.
    """

    def __init__(
        self,
        form: str = 'hard',
        tau: float | Mapping[str, Any] | nn.Module = 1.0,
        loss_weight: float = 1.0,
        normalizer: str = 'published',
    ) -> None:
        super().__init__(tau, loss_weight)
        name = type(self).__name__
        checks.one_of(f'{name}.form', form, FORMS)
        checks.one_of(f'{name}.normalizer', normalizer, NORMALIZERS)
        if form == 'hard' and not (isinstance(tau, (int, float)) and tau == 1):
            raise ValueError(
                f"{name}.tau={tau!r} has no effect with form='hard', where the teacher gives a "
                "class and no distribution: leave tau out, or give form='soft'."
            )
        self.form = form
        self.normalizer = normalizer

    def _answers(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return the loss of every row of two sets of logits, (N, C), as (N,)."""
        preds_S, preds_T, tau = self._prepare(preds_S, preds_T)
        if self.form == 'hard':
            return hard_loss(preds_S, preds_T)
        return kd_loss(preds_S, preds_T, tau)


@MODELS.register_module()
class DeiTLoss(AnswerLoss):
    """The distillation token's loss of DeiT, averaged over the batch.

    The published soft form divides by the number of logits, N * C, so that it
    is C times as small as :class:`KDLoss` at the same temperature; with
    ``normalizer='mean'`` both are the same.

    Args:
        form, tau, loss_weight, normalizer: As in :class:`AnswerLoss`. The
            published training has ``'hard'`` and a weight of 0.5, beside 0.5
            for the class token's loss.

    Source: as :func:`hard_loss`; github.com/facebookresearch/deit, losses.py.
    """

    def forward(self, preds_S: Tensor, preds_T: Tensor, gt_labels: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar in float32 or better.

        Args:
            preds_S: Logits of the student's distillation token, shape (N, C).
            preds_T: The teacher's logits, shape (N, C); detached here.
            gt_labels: Not used; accepted so that terms can be exchanged in a
                config.
        """
        loss = batch_mean(self._answers(preds_S, preds_T)) * self.loss_weight
        if self.form == 'soft' and self.normalizer == 'published':
            return loss / preds_S.shape[1]
        return loss

    def diagnose(
        self, preds_S: Tensor, preds_T: Tensor, gt_labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the agreement, for :class:`kd_plugins.hooks.DistillationLogHook`."""
        return dict(agreement=agreement(preds_S, preds_T))
