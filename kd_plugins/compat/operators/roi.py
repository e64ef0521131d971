"""What is pooled from regions of interest: image index and corners, (K, 5)."""

from __future__ import annotations

import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor

from kd_plugins.compat.operators import sampling
from kd_plugins.compat.operators.precision import full

_MAX = 0  # the number of RoIAlign's other pool mode

# How many numbers a chunk of regions may take where every region needs its own memory.
_CHUNK = 2**24


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write the mean, or the largest, of samples in every bin.

    Args:
        input: (N, C, H, W)
        rois: (K, 5)
        output: Where the result goes, (K, C, aligned_height, aligned_width).
        argmax_y: Where the rows of the largest samples go, as the output; mode 0 only.
        argmax_x: Likewise the columns.
        aligned_height: How many bins lie above one another.
        aligned_width: How many bins lie side by side.
        spatial_scale: Size of the input, divided by that of the picture.
        sampling_ratio: Samples for each side of a bin; 0 takes one for every pixel, which
            mode 0 has to look at the regions for.
        pool_mode: 0 is the largest, 1 the mean.
        aligned: Whether pixels' centres, not their corners, have whole coordinates.
    """
    if pool_mode == _MAX:
        places = (output, argmax_y, argmax_x)
        bins = (aligned_height, aligned_width)
        _largest(input, rois, places, bins, spatial_scale, sampling_ratio, aligned)
        return
    output.copy_(
        torch.ops.torchvision.roi_align(
            full(input),
            full(rois),
            spatial_scale,
            aligned_height,
            aligned_width,
            sampling_ratio,
            aligned,
        )
    )


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write the gradient of the input."""
    if pool_mode == _MAX:
        _from_largest(grad_output, rois, argmax_y, argmax_x, grad_input)
        return
    grad_input.copy_(
        torch.ops.torchvision._roi_align_backward(
            full(grad_output),
            full(rois),
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            aligned,
        )
    )


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Write the largest pixel of every bin.

    Bins are as mmcv cuts them, which does not round the corners of regions as
    torchvision does.

    Args:
        input: (N, C, H, W)
        rois: (K, 5)
        output: Where the result goes, (K, C, pooled_height, pooled_width); 0 for empty bins.
        argmax: Where the pixels' numbers go, as the output; -1 for empty bins.
        pooled_height: How many bins lie above one another.
        pooled_width: How many bins lie side by side.
        spatial_scale: Size of the input, divided by that of the picture.
    """
    channels, height, width = input.shape[1:]
    features, regions = full(input), full(rois)
    first = regions[:, 1:3] * spatial_scale
    size = (regions[:, 3:] + 1) * spatial_scale - first
    whole = (size > 0).all(1)[:, None, None]
    in_rows = _bins(first[:, 1], size[:, 1], pooled_height, height) & whole
    in_columns = _bins(first[:, 0], size[:, 0], pooled_width, width) & whole
    step = max(1, _CHUNK // max(1, channels * height * width * pooled_width))
    for low in range(0, len(regions), step):
        chunk = slice(low, low + step)
        maps = features[regions[chunk, 0].long()]
        # Over columns, then over rows: of equal pixels, the first one counts.
        value, column = _largest_of(maps[:, :, None], in_columns[chunk, None, :, None])
        value, row = _largest_of(value[:, :, None], in_rows[chunk, None, :, None])
        column = column.gather(3, row.transpose(2, 3)).transpose(2, 3)
        empty = ~(in_rows[chunk].any(2)[:, None, :, None] & in_columns[chunk].any(2)[:, None, None])
        output[chunk] = value.masked_fill(empty, 0).to(output.dtype)
        argmax[chunk] = (row * width + column).masked_fill(empty, -1).to(argmax.dtype)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Write the gradient of the input."""
    n, channels, height, width = grad_input.shape
    image = rois[:, 0].long()[:, None]
    rows = (image * channels + torch.arange(channels, device=rois.device)) * (height * width)
    index = rows[:, :, None, None] + argmax.clamp(min=0)
    grad = full(grad_output).masked_fill(argmax < 0, 0)
    total = grad.new_zeros(grad_input.numel()).index_add_(0, index.flatten(), grad.flatten())
    grad_input.copy_(total.view(grad_input.shape))


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Write the mean of samples in every bin, which ``offset`` moves.

    Args:
        input: (N, C, H, W)
        rois: (K, 5)
        offset: How far each bin moves, in ``gamma`` of the region's width and height,
            (K, 2, pooled_height, pooled_width), or empty.
        output: Where the result goes, (K, C, pooled_height, pooled_width).
        sampling_ratio: Samples for each side of a bin; 0 takes one for every pixel, and has
            to look at the regions for it.
        gamma: See ``offset``.
    """
    bins = (pooled_height, pooled_width)
    rows, columns = _grids(rois, bins, spatial_scale, sampling_ratio, True)
    features = sampling.rows_of(input)
    for chunk in sampling.chunks(rows, columns, input.size(1), _CHUNK):
        y, x = _moved(rows, columns, rois, offset, spatial_scale, gamma, chunk)
        samples = sampling.sample(features, input.shape, rois[chunk, 0], y, x)
        count = (rows.count[chunk] * columns.count[chunk]).clamp(min=1)
        mean = samples.sum((3, 4)) / count.view(-1, 1, 1, 1)
        output[chunk] = mean.permute(0, 3, 1, 2).to(output.dtype)


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Write the gradients of the input and of the offsets."""
    bins = (pooled_height, pooled_width)
    rows, columns = _grids(rois, bins, spatial_scale, sampling_ratio, True)
    features = sampling.rows_of(input)
    total = torch.zeros_like(features)
    sides = full((rois[:, 3:] - rois[:, 1:3]) * spatial_scale) * gamma
    for chunk in sampling.chunks(rows, columns, input.size(1), _CHUNK):
        y, x = _moved(rows, columns, rois, offset, spatial_scale, gamma, chunk)
        count = (rows.count[chunk] * columns.count[chunk]).clamp(min=1)
        grad = full(grad_output[chunk]).permute(0, 2, 3, 1) / count.view(-1, 1, 1, 1)
        grad = grad[:, :, :, None, None]
        sampling.add_gradient(total, input.shape, rois[chunk, 0], y, x, grad)
        if offset.numel():
            slopes = sampling.slopes(features, input.shape, rois[chunk, 0], y, x, grad)
            for axis, slope in enumerate(slopes):
                moved = slope * sides[chunk, axis].view(-1, 1, 1)
                grad_offset[chunk, axis] = moved.to(grad_offset.dtype)
    grad_input.copy_(sampling.maps_of(total, input.shape))


def _bins(first: Tensor, size: Tensor, bins: int, pixels: int) -> Tensor:
    """Say which pixels lie in which bin, (K, bins, pixels)."""
    number = torch.arange(bins, device=first.device)
    each = (size / bins)[:, None]
    low = (number * each + first[:, None]).floor()[:, :, None]
    high = ((number + 1) * each + first[:, None]).ceil()[:, :, None]
    pixel = torch.arange(pixels, device=first.device)
    return (pixel >= low) & (pixel < high)


def _largest_of(values: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest of the last axis among those chosen, and which one it is."""
    largest = torch.where(chosen, values, -torch.inf).max(-1)
    return largest.values, largest.indices


def _grids(
    rois: Tensor, bins: tuple[int, int], scale: float, sampling_ratio: int, aligned: bool
) -> tuple[sampling.Grid, sampling.Grid]:
    corners = full(rois)[:, 1:] * scale - (0.5 if aligned else 0)
    size = corners[:, 2:] - corners[:, :2]
    if not aligned:
        size = size.clamp(min=1)
    x, y = (
        sampling.Grid.of(corners[:, axis], size[:, axis], bins[1 - axis], sampling_ratio)
        for axis in (0, 1)
    )
    return y, x


def _moved(
    rows: sampling.Grid,
    columns: sampling.Grid,
    rois: Tensor,
    offset: Tensor,
    scale: float,
    gamma: float,
    chunk: slice,
) -> tuple[Tensor, Tensor]:
    """Return the coordinates of samples, (K, height, width, samples)."""
    y = rows.places[chunk, :, None]
    x = columns.places[chunk, None]
    if offset.numel() == 0:
        return y, x
    sides = full(rois[chunk, 3:] - rois[chunk, 1:3]) * scale * gamma
    moves = full(offset[chunk]) * sides[:, :, None, None]
    return y + moves[:, 1, :, :, None], x + moves[:, 0, :, :, None]


def _largest(
    input: Tensor,
    rois: Tensor,
    places: tuple[Tensor, Tensor, Tensor],
    bins: tuple[int, int],
    scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> None:
    rows, columns = _grids(rois, bins, scale, sampling_ratio, aligned)
    features = sampling.rows_of(input)
    # What mmcv's code starts from, and returns for bins without samples.
    start = -10000.0 if input.device.type == 'cpu' else torch.finfo(torch.float32).min
    for chunk in sampling.chunks(rows, columns, input.size(1), _CHUNK):
        y, x = rows.places[chunk, :, None], columns.places[chunk, None]
        samples = sampling.sample(features, input.shape, rois[chunk, 0], y, x)
        there = ~(y.isnan()[..., None] | x.isnan()[..., None, :])[..., None]
        samples = torch.where(there, samples, -torch.inf).flatten(3, 4)
        value, index = samples.permute(0, 4, 1, 2, 3).max(-1)
        found = value > start
        y, x = (
            axis.expand(-1, *bins, -1)[:, None].expand(-1, input.size(1), -1, -1, -1)
            for axis in (y, x)
        )
        per_row = x.size(-1)
        row = y.gather(-1, (index // per_row)[..., None]).squeeze(-1)
        column = x.gather(-1, (index % per_row)[..., None]).squeeze(-1)
        for place, part, other in zip(places, (value, row, column), (start, -1, -1), strict=True):
            place[chunk] = torch.where(found, part, other).to(place.dtype)


def _from_largest(
    grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor
) -> None:
    n, channels, height, width = grad_input.shape
    image = rois[:, 0].long()[:, None]
    maps = (image * channels + torch.arange(channels, device=rois.device)) * (height * width)
    total = full(grad_output).new_zeros(grad_input.numel())
    found = argmax_y != -1
    rows = sampling.neighbours(full(argmax_y), height)
    columns = sampling.neighbours(full(argmax_x), width)
    for y, weight_y in rows:
        for x, weight_x in columns:
            index = maps[:, :, None, None] + y * width + x
            grad = torch.where(found, full(grad_output) * weight_y * weight_x, 0)
            total.index_add_(0, index.flatten(), grad.flatten())
    grad_input.copy_(total.view(grad_input.shape))
