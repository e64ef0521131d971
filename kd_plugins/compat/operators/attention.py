"""Multi-scale deformable attention (Zhu et al., ICLR 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from kd_plugins.compat.operators.precision import full


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Return the weighted sums of sampled values, (N, queries, heads * channels).

    Nothing is read from the device: sizes of levels stay in tensors.

    Args:
        value: (N, keys, heads, channels); the levels' maps lie one after another.
        value_spatial_shapes: Height and width of each level, (levels, 2).
        value_level_start_index: Where each level starts among the keys, (levels,).
        sampling_locations: x and y, from 0 to 1 within a level,
            (N, queries, heads, levels, points, 2).
        attention_weights: (N, queries, heads, levels, points)
        im2col_step: How many pictures mmcv's own kernel takes at once.
    """
    values, locations, weights = map(full, (value, sampling_locations, attention_weights))
    total = values.new_zeros(())
    for level in range(weights.size(3)):
        total = total + _attend(
            values,
            value_spatial_shapes[level],
            value_level_start_index[level],
            locations[:, :, :, level],
            weights[:, :, :, level],
        )
    return total.flatten(2).to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Write the gradients of values, locations and weights; a level at a time, to save memory."""
    values = full(value).detach().requires_grad_()
    grad_output = full(grad_output).view(*attention_weights.shape[:3], -1)
    total = torch.zeros_like(values)
    for level in range(attention_weights.size(3)):
        locations = full(sampling_locations[:, :, :, level]).detach().requires_grad_()
        weights = full(attention_weights[:, :, :, level]).detach().requires_grad_()
        with torch.enable_grad():
            output = _attend(
                values,
                value_spatial_shapes[level],
                value_level_start_index[level],
                locations,
                weights,
            )
        grads = torch.autograd.grad(output, (values, locations, weights), grad_output)
        total += grads[0]
        grad_sampling_loc[:, :, :, level] = grads[1]
        grad_attn_weight[:, :, :, level] = grads[2]
    grad_value.copy_(total)


def _attend(
    values: Tensor, shape: Tensor, start: Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    """Return one level's part, (N, queries, heads, channels)."""
    batch, keys, heads, _ = values.shape
    device = values.device
    row = torch.arange(batch, device=device).view(-1, 1, 1, 1) * keys + start
    head = torch.arange(heads, device=device).view(1, 1, -1, 1)
    rows = values.flatten(0, 2)
    height, width = shape.unbind()
    x = locations[..., 0] * width - 0.5
    y = locations[..., 1] * height - 0.5
    total = values.new_zeros(())
    for corner_y, weight_y in _corners(y):
        for corner_x, weight_x in _corners(x):
            # A pixel before the first one counts for nothing, also in the gradient.
            inside = (y > -1) & (x > -1)
            inside &= (corner_y >= 0) & (corner_y < height) & (corner_x >= 0) & (corner_x < width)
            place = torch.where(inside, corner_y * width + corner_x, 0).long()
            sampled = rows[((row + place) * heads + head).flatten()].view(*place.shape, -1)
            factor = torch.where(inside, weight_y * weight_x * weights, 0)
            with torch.autocast(device.type, enabled=False):  # of matrix products
                total = total + (factor.unsqueeze(-2) @ sampled).squeeze(-2)
    return total


def _corners(position: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    """Return both neighbouring pixels of a position, and their weights."""
    low = position.detach().floor()
    above = position - low
    return (low, 1 - above), (low + 1, above)
