"""What a detection head says of a picture, apart from the padding of its batch.

All places of a picture are kept as maps, as far as the picture's own padding reaches; or, of
all but boxes, those anchors alone that are sure of something, each with its level, row and
column. Both are put into the grid of whatever batch the picture is in. The quality of boxes
(centerness) is not kept: who reads it also asks the teacher about features of the student.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_plugins.losses.base import at_least_float32
from kd_plugins.structures import HeadOutputs
from kd_plugins.teachers.parts import LISTED, NotStorableError, Part, Sizes, as_stored, brought

#: What is said of places beyond a picture: no class at all.
BACKGROUND = -12.0


def grid_of(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Return rows and columns of a level in a batch of this size."""
    return -(-size[0] // stride), -(-size[1] // stride)


def take_apart(
    value: HeadOutputs,
    dtype: torch.dtype,
    sizes: Sizes,
    strides: Sequence[int],
    min_score: float | None,
) -> tuple[Any, list[Part]]:
    """Return the form of what a head says of a batch, as JSON knows it, and its parts.

    Args:
        value: What it says.
        dtype: What logits are stored in. Boxes keep float32: their places need it.
        sizes: Those of the pictures.
        strides: Those of its levels.
        min_score: Keeps the anchors whose most probable class is at least so probable; None
            keeps all.

    Raises:
        NotStorableError: If its places cannot be found again.
    """
    for stride, grid in zip(strides, value.grids, strict=True):
        if grid != grid_of(sizes.batch, stride):
            raise NotStorableError(
                f'of {grid[0]} x {grid[1]} places at stride {stride} for a batch of '
                f'{sizes.batch[0]} x {sizes.batch[1]} pixels, whose places cannot be found again '
                'in another batch (model.teacher_input_size)'
            )
    anchors = [n // (h * w) for n, (h, w) in zip(value.level_sizes, value.grids, strict=True)]
    fields: list[tuple[Tensor, torch.dtype, str]] = [
        (value.cls_logits, dtype, 'background'),
        (value.boxes, torch.float32, 'cell'),
    ]
    if value.bin_logits is not None:
        fields.append((value.bin_logits.flatten(2), dtype, 'zero'))
    if min_score is None:
        parts = [part for field in fields for part in _maps(field, value, strides)]
        return dict(head=value.head, anchors=anchors, fields=len(fields)), parts
    form = dict(listed=value.head, anchors=anchors, strides=[*strides], fields=len(fields) - 1)
    logits, boxes, *bins = fields
    parts = _listed(value, [logits, *bins], sizes, strides, anchors, min_score)
    return form, [*parts, *_maps(boxes, value, strides)]


def _maps(
    field: tuple[Tensor, torch.dtype, str], value: HeadOutputs, strides: Sequence[int]
) -> Iterator[Part]:
    """Yield a field of all anchors, (N, A, ...), level by level."""
    numbers, dtype, beyond = field
    levels = as_stored(numbers, dtype).split(value.level_sizes, dim=1)
    for level, (h, w), stride in zip(levels, value.grids, strides, strict=True):
        yield Part(level.reshape(len(level), h, w, -1), stride, beyond)


def put_together(form: Mapping[str, Any], parts: Iterator[Tensor]) -> HeadOutputs:
    """Return what a head says of a batch, from the maps of its levels."""
    anchors, fields = form['anchors'], []
    for _ in range(form['fields']):
        levels = [next(parts) for _ in anchors]
        grids = tuple((x.shape[1], x.shape[2]) for x in levels)
        each = zip(levels, anchors, strict=True)
        fields.append([x.reshape(len(x), -1, x.shape[3] // k) for x, k in each])
    logits, boxes, *bins = (torch.cat(levels, dim=1) for levels in fields)
    return HeadOutputs(
        head=form['head'],
        level_sizes=tuple(level.shape[1] for level in fields[0]),
        cls_logits=logits,
        decode=lambda: boxes,
        bin_logits=bins[0].unflatten(2, (4, -1)) if bins else None,
        grids=grids,
    )


def in_grid(array: np.ndarray, grid: tuple[int, int], beyond: str) -> np.ndarray:
    """Return a map of one picture in a larger grid."""
    whole = np.full((*grid, array.shape[2]), BACKGROUND if beyond == 'background' else 0.0)
    if beyond == 'cell':
        rows, columns = np.indices(grid)
        cells = np.stack([columns, rows, columns + 1, rows + 1], axis=-1)
        whole += np.tile(cells, array.shape[2] // 4)
    rows, columns = array.shape[:2]
    whole[:rows, :columns] = array
    return whole.astype(array.dtype)


def _listed(
    value: HeadOutputs,
    fields: Sequence[tuple[Tensor, torch.dtype, str]],
    sizes: Sizes,
    strides: Sequence[int],
    anchors: Sequence[int],
    min_score: float,
) -> list[Part]:
    """Return the parts of the anchors that are sure of something.

    Those are the picture's own size; level, row, column and number of each anchor; the mean
    probability of all other anchors, level by level and class by class, as a logit; and the
    fields of the anchors.
    """
    places = torch.cat(
        [
            torch.cartesian_prod(*(torch.arange(n) for n in (h, w, k))).reshape(-1, 3)
            for (h, w), k in zip(value.grids, anchors, strict=True)
        ]
    )
    levels = torch.arange(len(strides)).repeat_interleave(torch.tensor(value.level_sizes))
    places = torch.cat([levels[:, None], places], dim=1)
    corners = places[:, 1:3] * torch.tensor(strides)[levels, None]
    own = (corners[None] < torch.tensor(sizes.own)[:, None]).all(dim=2)
    probabilities = at_least_float32(value.cls_logits.detach()).sigmoid()
    own = own.to(probabilities.device)
    kept = own & (probabilities.amax(dim=2) >= min_score)
    means = []
    for others, said in zip(
        (own & ~kept).split(value.level_sizes, dim=1),
        probabilities.split(value.level_sizes, dim=1),
        strict=True,
    ):
        summed = (said * others[:, :, None]).sum(dim=1)
        means.append(summed / others.sum(dim=1, keepdim=True).clamp(min=1))
    least = 1 / (1 + math.exp(-BACKGROUND))
    others = as_stored(torch.stack(means, dim=1).clamp(min=least).logit(), torch.float32)
    rows = [
        Part([as_stored(x[mask], of) for x, mask in zip(field, kept, strict=True)], 0, LISTED)
        for field, of, _ in fields
    ]
    return [
        Part(torch.tensor(sizes.own, dtype=torch.int32), 0, LISTED),
        Part([places[mask].to(torch.int16) for mask in kept.cpu()], 0, LISTED),
        Part(others, 0, LISTED),
        *rows,
    ]


def put_listed_together(
    form: Mapping[str, Any],
    parts: Iterator[Any],
    size: tuple[int, int],
    device: torch.device,
) -> HeadOutputs:
    """Return what a head says of a batch, from the anchors that were kept.

    For the logits of the others stands their mean, level by level and class by class.

    Args:
        form: What :func:`take_apart` gave.
        parts: Its parts: what is listed, one tensor a sample; then maps of the boxes.
        size: Height and width of the padded batch in pixels.
        device: Where tensors are to be.
    """
    own, places, others = next(parts), next(parts), next(parts)
    fields = [next(parts) for _ in range(form['fields'])]
    strides, anchors = form['strides'], form['anchors']
    grids = [grid_of(size, stride) for stride in strides]
    level_sizes = [h * w * k for (h, w), k in zip(grids, anchors, strict=True)]
    begins = [0, *accumulate(level_sizes)]
    level, row, column, number = torch.cat([*places]).long().unbind(dim=1)
    facts = torch.tensor([begins[:-1], [w for _, w in grids], anchors])
    begin, width, several = facts[:, level]
    # Of all samples in a row.
    count = torch.tensor([len(each) for each in places])
    sample = torch.arange(len(places)).repeat_interleave(count)
    where = sample * begins[-1] + begin + (row * width + column) * several + number
    where = brought(where, device)

    def spread(into: Tensor, rows: Sequence[Tensor]) -> Tensor:
        into.view(-1, into.shape[-1])[where] = brought(torch.cat([*rows]), device)
        return into

    logits = torch.full((len(places), begins[-1], others[0].shape[1]), BACKGROUND)
    for i, sides in enumerate(own):
        for j, (h, w) in enumerate(grids):
            rows, columns = grid_of((int(sides[0]), int(sides[1])), strides[j])
            of_level = logits[i, begins[j] : begins[j + 1]].view(h, w, anchors[j], -1)
            of_level[:rows, :columns] = others[i][j]
    boxes = torch.cat([next(parts).reshape(len(places), -1, 4) for _ in grids], dim=1)
    known = torch.zeros(len(places), begins[-1], dtype=torch.bool, device=device)
    known.view(-1)[where] = True
    bins = None
    if len(fields) > 1:
        bins = torch.zeros(*known.shape, fields[1][0].shape[1], device=device)
        bins = spread(bins, fields[1]).unflatten(2, (4, -1))
    return HeadOutputs(
        head=form['listed'],
        level_sizes=tuple(level_sizes),
        cls_logits=spread(brought(logits, device), fields[0]),
        decode=lambda: boxes,
        bin_logits=bins,
        grids=tuple(grids),
        known=known,
    )


def in_common(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return what two records of one picture say of anchors that both list, and of all boxes."""
    mine, theirs = (np.ascontiguousarray(x[1], '<i2').view('<i8').ravel() for x in (first, second))
    _, rows, others = np.intersect1d(mine, theirs, return_indices=True)
    return _listed_rows(first, rows), _listed_rows(second, others)


def _listed_rows(record: Sequence[np.ndarray], rows: np.ndarray) -> list[np.ndarray]:
    return [x[rows] if x.ndim == 2 else x for x in record[3:]]
