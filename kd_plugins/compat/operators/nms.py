"""Non-maximum suppression: the usual one, the soft one, and who suppresses whom."""

from __future__ import annotations

from ctypes import c_float
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor

from kd_plugins.compat.operators.precision import full

# Areas may overflow, and overlaps be no numbers.
_unwarned: Any = np.errstate(invalid='ignore', divide='ignore', over='ignore')


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return which boxes are kept, best first.

    Args:
        boxes: Corners, (N, 4).
        scores: (N,)
        iou_threshold: Boxes that overlap a better one by more are suppressed.
        offset: 1 if a box from 2 to 4 is three wide, 0 if two.
    """
    # mmcv's sort, which may take equal scores in any order; torchvision's would be stable.
    order = full(scores).sort(0, descending=True).indices
    boxes = full(boxes)[order]
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    ranks = torch.arange(len(order), 0, -1, device=boxes.device, dtype=boxes.dtype)
    # mmcv compares in float32, where a threshold such as 0.6 is another number.
    return order[torchvision.ops.nms(boxes, ranks, c_float(iou_threshold).value)]


@_unwarned
def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Write the boxes with their lowered scores, best first, and return which they are.

    Equal scores come in the order of mmcv's own: it swaps the best box to the
    front, and what is dropped with the last one.

    Args:
        boxes: Corners, (N, 4), on the CPU.
        scores: (N,)
        dets: Where boxes and scores go, (N, 5); the rows after the last kept one mean nothing.
        iou_threshold: Boxes that overlap a better one by this much or more are lowered.
        sigma: How far the Gaussian reaches.
        min_score: Boxes that were lowered below this are dropped.
        method: 0 drops, 1 lowers linearly, 2 lowers by a Gaussian.
        offset: 1 if a box from 2 to 4 is three wide, 0 if two.
    """
    rows = np.empty((len(boxes), 6), dtype=np.float32)
    rows[:, :4] = full(boxes).numpy()
    rows[:, 4] = _areas(rows, offset)
    rows[:, 5] = full(scores).numpy()
    index = np.arange(len(rows))
    first, end = 0, len(rows)
    while first < end:
        # A score that is no number stays where it is: nothing is larger.
        if not np.isnan(rows[first, 5]):
            best = first + int(np.nanargmax(rows[first:end, 5]))
        else:
            best = first
        rows[[first, best]] = rows[[best, first]]
        index[[first, best]] = index[[best, first]]
        others = rows[first + 1 : end]
        overlap = _overlap(rows[first], others, offset)
        if method == 2:
            factor = np.exp(-(overlap * overlap) / np.float32(sigma))
        else:
            factor = np.where(overlap >= np.float32(iou_threshold), 1 - overlap, np.float32(1))
            factor = np.where((factor == 1) | (method == 1), factor, np.float32(0))
        others[:, 5] *= factor
        first += 1
        end = first + _drop(others, index[first:end], others[:, 5] < np.float32(min_score))
    dets[:end, :4] = torch.from_numpy(rows[:end, :4])
    dets[:end, 4] = torch.from_numpy(rows[:end, 5])
    return torch.from_numpy(index[:end])


@_unwarned
def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Return the boxes that are kept, best first, each followed by those it suppresses.

    Args:
        dets: Corners and score, (N, 5), on the CPU.
        iou_threshold: Boxes that overlap a better one by this much or more are suppressed.
    """
    rows = full(dets).numpy()
    areas = _areas(rows, 0)
    rows = np.column_stack((rows[:, :4], areas))
    left = full(dets)[:, 4].sort(descending=True).indices.numpy()
    groups = []
    while len(left):
        suppressed = _overlap(rows[left[0]], rows[left[1:]], 0) >= np.float32(iou_threshold)
        groups.append([int(left[0]), *left[1:][suppressed].tolist()])
        left = left[1:][~suppressed]
    return groups


def _areas(boxes: np.ndarray, offset: int) -> np.ndarray:
    sides = boxes[:, 2:4] - boxes[:, :2] + np.float32(offset)
    return sides[:, 0] * sides[:, 1]


def _overlap(box: np.ndarray, others: np.ndarray, offset: int) -> np.ndarray:
    """Return the IoU of a box with others; columns are corners and area."""
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[2:4], others[:, 2:4])
    sides = np.maximum(high - low + np.float32(offset), np.float32(0))
    shared = sides[:, 0] * sides[:, 1]
    # That of empty boxes is no number, which no threshold is below.
    return shared / (box[4] + others[:, 4] - shared)


def _drop(rows: np.ndarray, index: np.ndarray, dropped: np.ndarray) -> int:
    """Put the last rows into the places of dropped ones and return how many are left."""
    kept = len(rows) - int(dropped.sum())
    holes = np.flatnonzero(dropped[:kept])
    fillers = kept + np.flatnonzero(~dropped[kept:])[::-1]
    rows[holes] = rows[fillers]
    index[holes] = index[fillers]
    return kept
