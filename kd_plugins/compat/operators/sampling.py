"""Samples between pixels, as RoIAlign takes them.

Maps are kept as rows, (N * H * W, C), so that a sample takes whole rows. Samples
that are not there (bins of small regions have fewer) have the coordinate NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kd_plugins.compat.operators.precision import full


@dataclass(frozen=True)
class Grid:
    """Where the bins of regions are sampled along one axis.

    Args:
        places: Coordinates, (K, bins, samples).
        count: How many samples a bin of each region has, (K,).
    """

    places: Tensor
    count: Tensor

    @classmethod
    def of(cls, start: Tensor, size: Tensor, bins: int, ratio: int) -> Grid:
        """Return the grid of regions with these first coordinates and sizes, (K,) each."""
        if ratio > 0:
            count = torch.full_like(size, ratio)
            most = ratio
        else:
            count = (size / bins).ceil().clamp(min=0)
            most = max(1, int(count.max())) if len(count) else 1
        number = torch.arange(most, device=size.device)
        each = (size / bins)[:, None]
        within = (number + 0.5) * each / count[:, None]
        within = torch.where(number < count[:, None], within, torch.nan)
        first = start[:, None] + torch.arange(bins, device=size.device) * each
        return cls(first[:, :, None] + within[:, None], count)


def chunks(rows: Grid, columns: Grid, channels: int, numbers: int) -> Iterator[slice]:
    """Give slices of regions whose samples take about so many numbers."""
    each = channels * rows.places[0:1].numel() * columns.places[0:1].numel()
    step = max(1, numbers // max(1, each))
    for low in range(0, len(rows.places), step):
        yield slice(low, low + step)


def rows_of(maps: Tensor) -> Tensor:
    """Return maps, (N, C, H, W), as rows."""
    return full(maps).permute(0, 2, 3, 1).flatten(0, 2)


def maps_of(rows: Tensor, shape: torch.Size) -> Tensor:
    """Return rows as maps of a shape."""
    n, channels, height, width = shape
    return rows.view(n, height, width, channels).permute(0, 3, 1, 2)


def neighbours(position: Tensor, pixels: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """Return both neighbours of positions, and their weights.

    The last pixel's are itself twice. Positions further than a pixel outside,
    and those that are NaN, have weights of 0.
    """
    inside = (position >= -1) & (position <= pixels)
    low, high = _pixels(position, pixels)
    above = (position.clamp(min=0) - low).masked_fill(low == high, 0)
    weights = (torch.where(inside, weight, 0) for weight in (1 - above, above))
    return tuple(zip((low, high), weights, strict=True))


def sample(rows: Tensor, shape: torch.Size, image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Return the values at all pairs of y and x, (K, height, width, y's, x's, C)."""
    total = rows.new_zeros(())
    for index, weight in _corners(shape, image, y, x):
        total = total + _take(rows, index) * weight[..., None]
    return total


def add_gradient(
    rows_grad: Tensor, shape: torch.Size, image: Tensor, y: Tensor, x: Tensor, grad: Tensor
) -> None:
    """Add to the gradient of the rows what :func:`sample` sends back for ``grad``."""
    for index, weight in _corners(shape, image, y, x):
        part = (weight[..., None] * grad).flatten(0, -2)
        rows_grad.index_add_(0, index.flatten(), part)


def slopes(
    rows: Tensor, shape: torch.Size, image: Tensor, y: Tensor, x: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of shifts of every bin along x and along y, (K, height, width).

    At the borders they are mmcv's: as if the positions there were not clamped.
    """
    height, width = shape[2:]
    inside = _inside(y, height)[..., None] & _inside(x, width)[..., None, :]
    (y_low, y_high), (x_low, x_high) = _pixels(y, height), _pixels(x, width)
    value = {
        (a, b): (_take(rows, _index(shape, image, row, column)) * grad).sum(-1)
        for a, row in enumerate((y_low, y_high))
        for b, column in enumerate((x_low, x_high))
    }
    down, up = (part[..., None] for part in (y - y_low, y_high - y))
    right, left = (part[..., None, :] for part in (x - x_low, x_high - x))
    along_x = (value[1, 1] - value[1, 0]) * down + (value[0, 1] - value[0, 0]) * up
    along_y = (value[1, 1] - value[0, 1]) * right + (value[1, 0] - value[0, 0]) * left
    along_x, along_y = (torch.where(inside, slope, 0) for slope in (along_x, along_y))
    return along_x.sum((3, 4)), along_y.sum((3, 4))


def _inside(position: Tensor, pixels: int) -> Tensor:
    return (position >= -1) & (position <= pixels)


def _pixels(position: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
    """Return the pixels before and after positions, both within the map."""
    low = position.nan_to_num(0).clamp(0, pixels - 1).long()
    return low, (low + 1).clamp(max=pixels - 1)


def _corners(
    shape: torch.Size, image: Tensor, y: Tensor, x: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give the rows of all four neighbours, and their weights."""
    for row, weight_y in neighbours(y, shape[2]):
        for column, weight_x in neighbours(x, shape[3]):
            index = _index(shape, image, row, column)
            yield index, weight_y[..., None] * weight_x[..., None, :]


def _index(shape: torch.Size, image: Tensor, row: Tensor, column: Tensor) -> Tensor:
    first = image.long().view(-1, 1, 1, 1) * shape[2] + row
    return first[..., None] * shape[3] + column[..., None, :]


def _take(rows: Tensor, index: Tensor) -> Tensor:
    return rows[index.flatten()].view(*index.shape, rows.size(-1))
