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

    Raises:
        TypeError: If boxes are whole numbers, which the scores beside them would be, too.
    """
    if not dets.is_floating_point():
        raise TypeError(f'soft_nms needs boxes of floating-point numbers, not {dets.dtype}.')
    # A row for each coordinate, the area and the score: loops run along memory.
    columns = np.empty((6, len(boxes)), dtype=np.float32)
    columns[:4] = full(boxes).numpy().T
    columns[4] = _areas(columns, offset)
    columns[5] = full(scores).numpy()
    index = np.arange(len(boxes))
    first, end = 0, len(boxes)
    threshold, width, least = map(np.float32, (iou_threshold, sigma, min_score))
    while first < end:
        best = first + _best(columns[5, first:end])
        found = columns[:, best].copy()
        columns[:, best], columns[:, first] = columns[:, first], found
        index[best], index[first] = index[first], index[best]
        others = columns[:, first + 1 : end]
        lowered, overlap = others[5], _overlap(found, others, offset)
        if method == 2:
            lowered *= np.exp(-(overlap * overlap) / width)
        else:
            factor = 1 - overlap if method == 1 else np.float32(0)
            np.multiply(lowered, factor, out=lowered, where=overlap >= threshold)
        first += 1
        dropped = lowered < least
        end = first + _drop(others, index[first:end], dropped) if dropped.any() else end
    dets[:end] = torch.from_numpy(columns[[0, 1, 2, 3, 5], :end].T)
    return torch.from_numpy(index[:end])


@_unwarned
def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Return the boxes that are kept, best first, each followed by those it suppresses.

    Args:
        dets: Corners and score, (N, 5), on the CPU.
        iou_threshold: Boxes that overlap a better one by this much or more are suppressed.
    """
    columns = full(dets).numpy().T
    columns = np.vstack((columns[:4], _areas(columns, 0)))
    left = full(dets)[:, 4].sort(descending=True).indices.numpy()
    groups, threshold = [], np.float32(iou_threshold)
    while len(left):
        suppressed = _overlap(columns[:, left[0]], columns[:, left[1:]], 0) >= threshold
        groups.append([int(left[0]), *left[1:][suppressed].tolist()])
        left = left[1:][~suppressed]
    return groups


def _areas(columns: np.ndarray, offset: int) -> np.ndarray:
    sides = columns[2:4] - columns[:2] + np.float32(offset)
    return sides[0] * sides[1]


def _best(scores: np.ndarray) -> int:
    """Return where the largest is; a first one that is no number stays: nothing is larger."""
    best = int(scores.argmax())
    if np.isnan(scores[best]):
        return 0 if np.isnan(scores[0]) else int(np.nanargmax(scores))
    return best


def _overlap(box: np.ndarray, others: np.ndarray, offset: int) -> np.ndarray:
    """Return the IoU of a box with others; rows are corners and area."""
    low = np.maximum(box[:2, None], others[:2])
    high = np.minimum(box[2:4, None], others[2:4])
    sides = np.maximum(high - low + np.float32(offset), np.float32(0))
    shared = sides[0] * sides[1]
    # That of empty boxes is no number, which no threshold is below.
    return shared / (box[4] + others[4] - shared)


def _drop(columns: np.ndarray, index: np.ndarray, dropped: np.ndarray) -> int:
    """Put the last ones into the places of dropped ones and return how many are left."""
    kept = len(index) - int(dropped.sum())
    holes = np.flatnonzero(dropped[:kept])
    fillers = kept + np.flatnonzero(~dropped[kept:])[::-1]
    columns[:, holes] = columns[:, fillers]
    index[holes] = index[fillers]
    return kept
