"""LD: distillation of the distributions over the sides of boxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kd_plugins.losses.base import LogitsLoss, at_least_float32
from kd_plugins.losses.detection import check_heads, check_outputs
from kd_plugins.losses.kd import kd_loss
from kd_plugins.registry import MODELS
from kd_plugins.structures import HeadOutputs, HeadSpec

__all__ = ['LDLoss']


@MODELS.register_module(['LDLoss', 'LocalizationDistillationLoss'])
class LDLoss(LogitsLoss):
    """KD between the distributions over the four sides of positive anchors' boxes.

    In a config ``kd_plugins.LDLoss``, or ``kd_plugins.LocalizationDistillationLoss``.

    As in mmdet's LDHead: ``tau^2 * KL`` averaged over the bins and the four
    sides, weighted by the student's largest class probability (detached),
    summed over positive anchors. The sum is divided by nothing else, so it
    grows with the objects in a batch. Positive anchors that a store has left out count nothing.

    Args:
        tau: The temperature: a number above 0 or a temperature module; its
            samples are sides, its classes bins.
        loss_weight: Factor of the loss; the paper's is 0.25.

    Raises:
        ValueError: On a temperature or weight out of range, or on heads that do
            not fit or have no bins.

    Source: Zheng et al., "Localization Distillation for Dense Object
    Detection", CVPR 2022, arXiv 2102.12252, equation 3; mmdet 3.3.0,
    models/dense_heads/ld_head.py.
    """

    #: Arguments of which some anchors may be unknown.
    sparse_heads = ('preds_T',)

    def __init__(
        self, tau: float | Mapping[str, Any] | nn.Module = 10.0, loss_weight: float = 0.25
    ) -> None:
        super().__init__(tau, loss_weight)

    def check_specs(
        self, key: str, preds_S: HeadSpec | None = None, preds_T: HeadSpec | None = None
    ) -> None:
        """Refuse heads that do not correspond or lack bins; called before the first step."""
        check_heads(key, preds_S, preds_T)
        assert preds_S is not None and preds_T is not None
        if preds_S.num_bins is None or preds_S.num_bins != preds_T.num_bins:
            said = [
                f'{spec.head} of the {side} has {spec.num_bins or "no"} bins'
                for side, spec in (('student', preds_S), ('teacher', preds_T))
            ]
            raise ValueError(
                f'{key} compares distributions over the sides of boxes, but the {said[0]} and the '
                f'{said[1]}: give two GFLHeads of one reg_max.'
            )

    def forward(self, preds_S: HeadOutputs, preds_T: HeadOutputs) -> Tensor:
        """Return the loss, a scalar in float32 or better.

        Args:
            preds_S: The student's record, with targets.
            preds_T: The teacher's; detached here.
        """
        targets = check_outputs(type(self).__name__, preds_S, preds_T)
        assert preds_S.bin_logits is not None and preds_T.bin_logits is not None
        positive = targets.positive
        if preds_T.known is not None:
            positive = positive & preds_T.known
        sides_S, sides_T, tau = self._prepare(
            preds_S.bin_logits[positive].flatten(0, 1), preds_T.bin_logits[positive].flatten(0, 1)
        )
        with torch.no_grad():
            weights = at_least_float32(preds_S.cls_logits[positive]).sigmoid().amax(dim=-1)
            if targets.scores is not None:
                weights = weights * targets.scores[positive]
        per_side = kd_loss(sides_S, sides_T, tau) / sides_S.shape[1]
        return (per_side * weights.repeat_interleave(4)).sum() / 4 * self.loss_weight
