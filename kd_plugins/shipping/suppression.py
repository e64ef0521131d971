"""Non-maximum suppression of a batch, as upstream does it and as ONNX holds it."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.config import ConfigDict
from torch import Tensor

#: Below any score, and the score of what is none.
NONE = -1.0


class _NonMaxSuppression(torch.autograd.Function):
    """ONNX's operator: rows of picture, 0 and candidate, each picture's by falling scores."""

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor, most: int, threshold: float) -> Tensor:
        from torchvision.ops import nms

        found = []
        for picture in range(boxes.shape[0]):
            valid = (scores[picture, 0] > NONE / 2).nonzero().squeeze(1)
            kept = valid[nms(boxes[picture, valid], scores[picture, 0, valid], threshold)][:most]
            rows = torch.zeros(kept.numel(), 3, dtype=torch.long)
            rows[:, 0], rows[:, 2] = picture, kept
            found.append(rows)
        return torch.cat(found)

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, most: int, threshold: float) -> Any:
        def constant(value: float, dtype: torch.dtype) -> Any:
            return g.op('Constant', value_t=torch.tensor([value], dtype=dtype))

        return g.op(
            'NonMaxSuppression',
            boxes,
            scores,
            constant(most, torch.long),
            constant(threshold, torch.float32),
            constant(NONE / 2, torch.float32),
        )


def check_nms(settings: ConfigDict, key: str) -> None:
    """Refuse another suppression than the plain one.

    Args:
        settings: ``nms`` of a detector's ``test_cfg``.
        key: What to call it.

    Raises:
        ValueError: Naming the key and the value.
    """
    kind = settings.get('type', 'nms')
    if kind != 'nms':
        raise ValueError(
            f"{key}.type={kind!r} cannot be written as ONNX, which has the plain 'nms' only: test "
            'with that, or write --raw-outputs.'
        )
    for name in settings:
        if name not in ('type', 'iou_threshold', 'class_agnostic', 'split_thr'):
            raise ValueError(
                f'{key}.{name}={settings[name]!r} cannot be written as ONNX: leave it out, or '
                'write --raw-outputs.'
            )


def suppress(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    valid: Tensor,
    settings: ConfigDict,
    most: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best boxes of each picture, those of a group that overlap left out.

    Args:
        boxes: Corners of candidates, (N, P, 4).
        scores: (N, P), 0 to 1
        groups: The class or level of each candidate, (N, P).
        valid: Which candidates count, (N, P).
        settings: ``nms`` of the detector's ``test_cfg``.
        most: How many to return of a picture, None for all.

    Returns:
        Boxes (N, D, 4), scores (N, D) and groups (N, D), by falling scores. D is the
        largest number of any picture; what a picture has less has the group -1, and 0
        for the rest.
    """
    apart = boxes
    if not settings.get('class_agnostic', False):
        # As upstream: far enough from each other that groups do not overlap.
        largest = torch.where(valid.unsqueeze(-1), boxes, torch.zeros_like(boxes)).amax((1, 2))
        apart = boxes + (groups.to(boxes) * (largest + 1).unsqueeze(-1)).unsqueeze(-1)
    ranked = torch.where(valid, scores, torch.full_like(scores, NONE))
    selected = _NonMaxSuppression.apply(
        apart,
        ranked.unsqueeze(1),
        2**31 - 1 if most is None else most,
        float(settings['iou_threshold']),
    )
    place = selected[:, 0] * torch._shape_as_tensor(ranked)[1] + selected[:, 2]
    kept = torch.zeros_like(ranked).flatten()
    kept = kept.scatter(0, place, torch.ones_like(place).to(kept)).reshape(ranked.shape)
    ranked = torch.where(kept > 0, ranked, torch.full_like(ranked, NONE))
    most_kept: Any = kept.sum(1).max().long()
    scores, index = ranked.topk(most_kept, dim=1)
    found = scores > NONE / 2
    boxes = gather(boxes, index) * found.unsqueeze(-1)
    return boxes, scores * found, torch.where(found, groups.gather(1, index), -1)


def gather(rows: Tensor, index: Tensor) -> Tensor:
    """Return rows (N, P, D) of an index (N, K)."""
    return rows.gather(1, index.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Return boxes (N, P, 4) within their pictures, whose heights and widths are (N, 2)."""
    limits = sizes.to(boxes).flip(-1).repeat(1, 2).unsqueeze(1)
    return torch.minimum(boxes.clamp(min=0), limits)


def large_enough(boxes: Tensor, settings: ConfigDict) -> Tensor:
    """Return which boxes (N, P, 4) upstream's ``min_bbox_size`` leaves, (N, P)."""
    least = settings.get('min_bbox_size', -1)
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return (width > least) & (height > least) if least >= 0 else torch.ones_like(width) > 0
