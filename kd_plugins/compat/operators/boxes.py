"""Overlaps of boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from kd_plugins.compat.operators.precision import full


def bbox_overlaps(
    bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int
) -> None:
    """Write the overlaps.

    Args:
        bboxes1: Corners, (M, 4).
        bboxes2: Corners, (N, 4).
        ious: Where the result goes: (M,) if ``aligned``, (M, N) if not.
        mode: 0 divides by the union, 1 by the first box's area.
        aligned: Whether box i is compared with box i only.
        offset: 1 if a box from 2 to 4 is three wide, 0 if two.
    """
    first, second = full(bboxes1), full(bboxes2)
    if not aligned:
        first = first[:, None]
    low = torch.max(first[..., :2], second[..., :2])
    high = torch.min(first[..., 2:], second[..., 2:])
    shared = (high - low + offset).clamp(min=0).prod(-1)
    base = _areas(first, offset)
    if mode == 0:
        base = base + _areas(second, offset) - shared
    if bboxes1.is_cuda:
        base = base.clamp(min=offset)  # as mmcv's kernel, which its CPU code does not
    ious.copy_(shared / base)


def _areas(boxes: Tensor, offset: int) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2] + offset).prod(-1)
