"""BCKD: distillation of dense detectors, class by class and box by box."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_plugins.losses.base import WeightedLoss, at_least_float32
from kd_plugins.losses.detection import check_heads, check_outputs, mean_over_positives
from kd_plugins.registry import MODELS
from kd_plugins.structures import HeadOutputs, HeadSpec

__all__ = [
    'BCKDClassificationLoss',
    'BCKDLocalizationLoss',
    'binary_classification_kd',
    'localization_weight',
]


def binary_classification_kd(preds_S: Tensor, preds_T: Tensor) -> Tensor:
    r"""Binary cross-entropy of every class, modulated by how far apart both are.

    ``sum over classes of BCE(z_S, sigmoid(z_T)) * |sigmoid(z_T) - sigmoid(z_S)|``;
    the modulating factor passes a gradient, as in the published code.

    Args:
        preds_S: The student's class logits, shape (..., C).
        preds_T: The teacher's, likewise.

    Returns:
        Tensor of shape (...), at least 0.

    Source: Yang, Zhou et al., "Bridging Cross-task Protocol Inconsistency for
    Distillation in Dense Object Detection", ICCV 2023, arXiv 2308.14286,
    section 3.2; github.com/TinyTigerPan/BCKD at 121c9aa, mmdet/models/losses/kd_loss.py.
    """
    p_T = preds_T.sigmoid()
    # As binary_cross_entropy_with_logits, in half of the time on CPUs. Beyond the threshold
    # softplus(z) is z, by rounding.
    bce = F.softplus(preds_S, threshold=40) - p_T * preds_S
    return (bce * (p_T - preds_S.sigmoid()).abs()).sum(dim=-1)


def localization_weight(preds_S: Tensor, preds_T: Tensor) -> Tensor:
    """Largest difference of the class probabilities, detached.

    Args:
        preds_S: The student's class logits, shape (..., C).
        preds_T: The teacher's, likewise.

    Returns:
        Tensor of shape (...) in [0, 1].

    Source: as :func:`binary_classification_kd`, section 3.3; ld_head.py.
    """
    with torch.no_grad():
        return (preds_T.sigmoid() - preds_S.sigmoid()).abs().amax(dim=-1)


def iou_losses(loss_iou: Callable[..., Tensor], boxes_S: Tensor, boxes_T: Tensor) -> Tensor:
    """An IoU loss per pair of boxes; 0, without a gradient, where both are the same.

    There every IoU loss is 0 and flat, but some of mmdet's compute 0 / 0.

    Args:
        loss_iou: Such a loss, which takes ``reduction_override='none'``.
        boxes_S: The student's boxes, (x1, y1, x2, y2) of shape (M, 4).
        boxes_T: The teacher's, likewise.

    Returns:
        Tensor of shape (M,).
    """
    same = (boxes_S == boxes_T).all(dim=1, keepdim=True)
    values = loss_iou(torch.where(same, boxes_T + 1, boxes_S), boxes_T, reduction_override='none')
    # BoundedIoULoss gives one number a side.
    values = values.sum(dim=1) if values.dim() == 2 else values
    return values.masked_fill(same.squeeze(1), 0)


def built_iou_loss(owner: str, cfg: Mapping[str, Any] | nn.Module) -> nn.Module:
    """Return an IoU loss of mmdet that compares boxes one by one.

    Args:
        owner: The name of the term that has it, for messages.
        cfg: Its config, or the loss.

    Raises:
        ValueError: If it compares no boxes, or has a weight of its own.
    """
    loss = cfg if isinstance(cfg, nn.Module) else MODELS.build(dict(cfg))
    name = f'{owner}.loss_iou={type(loss).__name__}'
    weight = getattr(loss, 'loss_weight', 1.0)
    if weight != 1.0:
        raise ValueError(
            f'{name} has loss_weight={weight!r}: leave it at 1 and give {owner}.loss_weight, '
            'which is the whole factor.'
        )
    box = torch.tensor([[0.0, 0.0, 100.0, 80.0]])
    try:
        near, far = iou_losses(loss, torch.cat([box + 0.01, box + 90]), box.repeat(2, 1))
        fits = bool(0 <= near < 0.05 < far)
    except (TypeError, ValueError, RuntimeError, AssertionError):
        fits = False
    if not fits:
        raise ValueError(
            f'{name} does not compare boxes one by one: give an IoU loss of mmdet, such as '
            "dict(type='mmdet.GIoULoss')."
        )
    return loss


@MODELS.register_module(['BCKDClassificationLoss', 'BinaryClassificationKDLoss'])
class BCKDClassificationLoss(WeightedLoss):
    """BCKD's classification term, :func:`binary_classification_kd` per positive anchor.

    In a config ``kd_plugins.BCKDClassificationLoss``, or
    ``kd_plugins.BinaryClassificationKDLoss``.

    Every anchor counts with its label weight, on the levels that hold a positive
    one; the sum is divided by the number of positives (see
    :class:`kd_plugins.structures.HeadTargets`). Anchors that a store has left out say the
    mean of all of them on their level.

    Args:
        loss_weight: Factor of the loss; the paper's is 1.

    Raises:
        ValueError: On a weight out of range, or on heads that do not fit.
    """

    #: Arguments of which some anchors may be unknown.
    sparse_heads = ('preds_T',)

    def check_specs(
        self, key: str, preds_S: HeadSpec | None = None, preds_T: HeadSpec | None = None
    ) -> None:
        """Refuse a pair of heads that do not correspond; called before the first step."""
        check_heads(key, preds_S, preds_T)

    def forward(self, preds_S: HeadOutputs, preds_T: HeadOutputs) -> Tensor:
        """Return the loss, a scalar in float32 or better.

        Args:
            preds_S: The student's record, with targets.
            preds_T: The teacher's; detached here.
        """
        targets = check_outputs(type(self).__name__, preds_S, preds_T)
        logits_S = at_least_float32(preds_S.cls_logits)
        logits_T = at_least_float32(preds_T.cls_logits.detach())
        values = binary_classification_kd(logits_S, logits_T)
        return mean_over_positives(values, targets) * self.loss_weight


@MODELS.register_module(['BCKDLocalizationLoss', 'IoULocalizationKDLoss'])
class BCKDLocalizationLoss(WeightedLoss):
    """BCKD's localisation term: an IoU loss between both networks' boxes.

    In a config ``kd_plugins.BCKDLocalizationLoss``, or
    ``kd_plugins.IoULocalizationKDLoss``.

    Every anchor's boxes are compared, weighted by :func:`localization_weight`
    and the label weight, on the levels that hold a positive anchor; the sum is
    divided by the number of positives. Boxes are decoded, so any two ways of
    coding them fit. Anchors that a store has left
    out have their own boxes, and are weighted by the mean of what they say on their level.

    Args:
        loss_iou: Config of an IoU loss of mmdet, which takes boxes (M, 4) and
            ``reduction_override='none'``. Its own ``loss_weight`` stays 1.
        loss_weight: Factor of the loss; the paper's is 4.

    Raises:
        ValueError: On a weight out of range, on a loss that compares no boxes,
            or on heads that do not fit.
    """

    #: Arguments of which some anchors may be unknown.
    sparse_heads = ('preds_T',)

    def __init__(
        self,
        loss_iou: Mapping[str, Any] | nn.Module | None = None,
        loss_weight: float = 4.0,
    ) -> None:
        super().__init__(loss_weight)
        self.loss_iou = built_iou_loss(type(self).__name__, loss_iou or dict(type='mmdet.GIoULoss'))

    def check_specs(
        self, key: str, preds_S: HeadSpec | None = None, preds_T: HeadSpec | None = None
    ) -> None:
        """Refuse a pair of heads that do not correspond; called before the first step."""
        check_heads(key, preds_S, preds_T)

    def forward(self, preds_S: HeadOutputs, preds_T: HeadOutputs) -> Tensor:
        """Return the loss, a scalar in float32 or better.

        Args:
            preds_S: The student's record, with targets.
            preds_T: The teacher's; detached here.
        """
        targets = check_outputs(type(self).__name__, preds_S, preds_T)
        boxes_S, boxes_T = preds_S.boxes, preds_T.boxes.detach()
        values = iou_losses(self.loss_iou, boxes_S.flatten(0, 1), boxes_T.flatten(0, 1))
        weights = localization_weight(
            at_least_float32(preds_S.cls_logits), at_least_float32(preds_T.cls_logits)
        )
        values = values.view_as(weights) * weights
        return mean_over_positives(values, targets) * self.loss_weight
