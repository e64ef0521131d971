"""CrossKD: the teacher's own head says what it makes of the student's features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from mmengine.dist import all_reduce
from torch import Tensor, nn

from kd_plugins.losses.base import WeightedLoss, at_least_float32
from kd_plugins.losses.bckd import binary_classification_kd, built_iou_loss, iou_losses
from kd_plugins.losses.detection import EPS, check_heads, check_outputs
from kd_plugins.losses.kd import kd_loss
from kd_plugins.losses.maps import centred_and_deviation, moments, values_per_channel
from kd_plugins.registry import MODELS
from kd_plugins.structures import HeadOutputs, HeadSpec, HeadTargets

__all__ = ['CrossKDCenternessLoss', 'CrossKDClassificationLoss', 'CrossKDLocalizationLoss', 'align']

#: What the terms read, for messages.
RECORDERS = (
    "map preds_S to a teacher's recorder dict(type='kd_plugins.CrossHead', question=...), preds_T "
    "to a dict(type='kd_plugins.DetectionHead') of the teacher, and head_S to one of the student"
)


def align(features_S: Tensor, features_T: Tensor) -> Tensor:
    """Give the student's features the teacher's mean and deviation, channel by channel.

    ``(s - mean(s)) / std(s) * std(t) + mean(t)`` over the batch and all positions of this
    process, with unbiased deviations. The gradient passes the student's mean and deviation, too.

    Args:
        features_S: The student's, shape (N, C, H, W).
        features_T: The teacher's, shape (N, C, H', W').

    Returns:
        Tensor of shape (N, C, H, W) in float32 or better. A channel of the student that is
        constant becomes the teacher's mean, with a bounded gradient. Where a channel has one
        value there is no deviation, and all of it is the teacher's mean.

    Source: Wang, Chen, Zheng, Li, Cheng, Hou, "CrossKD: Cross-Head Knowledge Distillation for
    Object Detection", CVPR 2024, arXiv 2306.11369; the alignment is in its published code only,
    github.com/jbwang1997/CrossKD at 87e156a.
    """
    features_S = at_least_float32(features_S)
    features_T = at_least_float32(features_T.detach())
    # Of one value, or none, the deviation is no number.
    if min(values_per_channel(features_S), values_per_channel(features_T)) < 2:
        return features_S * 0 + features_T.mean((0, 2, 3), keepdim=True)
    _, mean, variance = moments(features_T)
    centred, deviation = centred_and_deviation(features_S)
    return centred * (variance.sqrt() / deviation) + mean


class _CrossKDLoss(WeightedLoss):
    """Base of the terms: what they are mapped to, and by what a sum over anchors is divided."""

    def check_specs(
        self,
        key: str,
        preds_S: HeadSpec | None = None,
        preds_T: HeadSpec | None = None,
        head_S: HeadSpec | None = None,
    ) -> None:
        """Refuse a pair of heads that do not correspond; called before the first step."""
        if not all(isinstance(spec, HeadSpec) for spec in (preds_S, preds_T, head_S)):
            raise ValueError(f"{key} compares what one head, the teacher's, says: {RECORDERS}.")
        check_heads(key, head_S, preds_T)

    def _targets(
        self, preds_S: HeadOutputs, preds_T: HeadOutputs, head_S: HeadOutputs
    ) -> HeadTargets:
        owner = type(self).__name__
        for name, preds in (('preds_S', preds_S), ('preds_T', preds_T), ('head_S', head_S)):
            if not isinstance(preds, HeadOutputs):
                raise ValueError(f'{owner}.{name} is a {type(preds).__name__}: {RECORDERS}.')
        return check_outputs(owner, head_S, preds_T)

    def _mean(self, values: Tensor, targets: HeadTargets) -> Tensor:
        """Return a sum over the number of positives or, of FCOS, that of their centerness."""
        number = targets.num_pos if targets.sum_quality is None else targets.sum_quality
        return values.sum() / (number + EPS) * self.loss_weight


@MODELS.register_module()
class CrossKDClassificationLoss(_CrossKDLoss):
    """BCKD's binary cross-entropy between what the teacher's head says of both features.

    In a config ``kd_plugins.CrossKDClassificationLoss``. Every anchor counts with the label
    weight that the student's own loss gives it; the sum is divided by the number of positive
    anchors, at least 1 a picture, averaged over processes; where the student has an FCOSHead,
    by the sum of their centerness targets, at least 1.

    Args:
        loss_weight: Factor of the loss. Published: 1, and 0.4 for FCOS.

    Raises:
        ValueError: On a weight out of range, or on heads that do not fit.

    Source: as :func:`align`; equation 6 and the published code.
    """

    def forward(self, preds_S: HeadOutputs, preds_T: HeadOutputs, head_S: HeadOutputs) -> Tensor:
        """Return the loss, a scalar in float32 or better.

        Args:
            preds_S: What the teacher's head says of the student's features.
            preds_T: What it says of the teacher's; detached here.
            head_S: What the student's own head says, with its targets.
        """
        targets = self._targets(preds_S, preds_T, head_S)
        logits_S = at_least_float32(preds_S.cls_logits)
        logits_T = at_least_float32(preds_T.cls_logits.detach())
        values = binary_classification_kd(logits_S, logits_T)
        return self._mean(values * targets.label_weights, targets)


@MODELS.register_module()
class CrossKDLocalizationLoss(_CrossKDLoss):
    """Difference of the boxes that the teacher's head sees in both features.

    In a config ``kd_plugins.CrossKDLocalizationLoss``. Every anchor weighs the largest class
    probability that the teacher gives it, or 0 where the student's own loss leaves it out.

    Without ``loss_iou``, for two GFLHeads: the KL divergence of the distributions over a side,
    summed over the bins, averaged over the four sides; the sum over anchors is divided by that of
    their weights, averaged over processes, at least 1. With it: the IoU loss of both boxes; the
    sum is divided as :class:`CrossKDClassificationLoss` does it.

    Args:
        loss_iou: Config of an IoU loss of mmdet, whose own ``loss_weight`` stays 1; None to
            compare distributions.
        loss_weight: Factor of the loss. Published: 4 for distributions, 1 for RetinaNet and
            ATSS with ``mmdet.GIoULoss``, 0.75 for FCOS with ``mmdet.IoULoss``.

    Raises:
        ValueError: On a weight out of range, on a loss that compares no boxes, or on heads that
            do not fit or have no distributions.

    Source: as :func:`align`; equation 7 and the published code.
    """

    def __init__(
        self, loss_iou: Mapping[str, Any] | nn.Module | None = None, loss_weight: float = 4.0
    ) -> None:
        super().__init__(loss_weight)
        self.loss_iou = None if loss_iou is None else built_iou_loss(type(self).__name__, loss_iou)

    def check_specs(
        self,
        key: str,
        preds_S: HeadSpec | None = None,
        preds_T: HeadSpec | None = None,
        head_S: HeadSpec | None = None,
    ) -> None:
        """Refuse heads that do not correspond or lack bins; called before the first step."""
        super().check_specs(key, preds_S, preds_T, head_S)
        assert preds_T is not None
        if self.loss_iou is None and preds_T.num_bins is None:
            raise ValueError(
                f'{key}.loss_iou=None compares distributions over the sides of boxes, and the '
                f'{preds_T.head} of the teacher predicts none: give an IoU loss of mmdet, such as '
                "dict(type='mmdet.GIoULoss')."
            )

    def forward(self, preds_S: HeadOutputs, preds_T: HeadOutputs, head_S: HeadOutputs) -> Tensor:
        """Return the loss, a scalar in float32 or better; see the classification's."""
        targets = self._targets(preds_S, preds_T, head_S)
        sure = at_least_float32(preds_T.cls_logits.detach()).amax(dim=-1).sigmoid()
        weights = sure * (targets.label_weights > 0)
        if self.loss_iou is None:
            assert preds_S.bin_logits is not None and preds_T.bin_logits is not None
            sides_S, sides_T = (
                at_least_float32(x).flatten(0, 2)
                for x in (preds_S.bin_logits, preds_T.bin_logits.detach())
            )
            values = kd_loss(sides_S, sides_T, 1.0).view(*weights.shape, 4).mean(dim=-1)
            total = weights.sum()
            all_reduce(total, op='mean')
            return (values * weights).sum() / total.clamp(min=1) * self.loss_weight
        boxes_S, boxes_T = preds_S.boxes, preds_T.boxes.detach()
        values = iou_losses(self.loss_iou, boxes_S.flatten(0, 1), boxes_T.flatten(0, 1))
        return self._mean(values.view_as(weights) * weights, targets)


@MODELS.register_module()
class CrossKDCenternessLoss(_CrossKDLoss):
    """Binary cross-entropy of the centerness that the teacher's head sees in both features.

    In a config ``kd_plugins.CrossKDCenternessLoss``, for ATSS. Positive anchors count; the sum is
    divided as :class:`CrossKDClassificationLoss` does it.

    Args:
        loss_weight: Factor of the loss. Published: 1 for ATSS; FCOS has none.

    Raises:
        ValueError: On a weight out of range, or on heads that do not fit, or predict none.

    Source: the published code, see :func:`align`.
    """

    def forward(self, preds_S: HeadOutputs, preds_T: HeadOutputs, head_S: HeadOutputs) -> Tensor:
        """Return the loss, a scalar in float32 or better; see the classification's."""
        targets = self._targets(preds_S, preds_T, head_S)
        if preds_S.quality_logits is None or preds_T.quality_logits is None:
            raise ValueError(
                f'CrossKDCenternessLoss: the {preds_T.head} of the teacher predicts no centerness: '
                'leave this term out.'
            )
        values = F.binary_cross_entropy_with_logits(
            at_least_float32(preds_S.quality_logits),
            at_least_float32(preds_T.quality_logits.detach()).sigmoid(),
            reduction='none',
        )
        weights = targets.positive if targets.scores is None else targets.positive * targets.scores
        return self._mean(values * weights, targets)
