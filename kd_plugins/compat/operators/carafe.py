"""Content-aware upsampling, CARAFE (Wang et al., ICCV 2019)."""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from kd_plugins.compat.operators.precision import full


def carafe_naive_forward(
    features: Tensor,
    masks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write the upsampled features.

    Args:
        features: (N, C, H, W)
        masks: The kernel of every pixel of the output,
            (N, group_size * kernel_size ** 2, H * scale_factor, W * scale_factor).
        output: Where the result goes, (N, C, H * scale_factor, W * scale_factor).
        kernel_size: Side of the kernels, an odd number.
        group_size: How many groups of channels have kernels of their own.
        scale_factor: How many times larger the output is.
    """
    kernels = _kernels(full(masks), features, group_size)
    padded = _padded(full(features), kernel_size, group_size)
    total = kernels.new_zeros(())
    for place, rows, columns in _places(kernel_size, features):
        part = padded[..., rows, columns]
        total = total + part[:, :, :, :, None, :, None] * kernels[:, :, None, place]
    output.copy_(total.reshape(output.shape))


def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write the gradients of the features and of the kernels."""
    kernels = _kernels(full(masks), features, group_size)
    padded = _padded(full(features), kernel_size, group_size)
    n, c, h, w = features.shape
    grad = full(top_grad).view(n, group_size, c // group_size, h, scale_factor, w, scale_factor)
    kernels_grad = kernels.new_empty(kernels.shape)
    padded_grad = padded.new_zeros(padded.shape)
    for place, rows, columns in _places(kernel_size, features):
        part = padded[..., rows, columns]
        kernels_grad[:, :, place] = (grad * part[:, :, :, :, None, :, None]).sum(2)
        padded_grad[..., rows, columns] += (grad * kernels[:, :, None, place]).sum((4, 6))
    radius = kernel_size // 2
    inner = padded_grad[..., radius : radius + h, radius : radius + w]
    bottom_grad.copy_(inner.reshape(features.shape))
    mask_grad.copy_(kernels_grad.view(masks.shape))


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write the upsampled features; ``rfeatures`` is what the backward is given of them."""
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write the gradients of the features and of the kernels."""
    carafe_naive_backward(
        top_grad,
        rfeatures,
        masks,
        bottom_grad,
        mask_grad,
        kernel_size,
        group_size,
        scale_factor,
    )


def _kernels(masks: Tensor, features: Tensor, groups: int) -> Tensor:
    """Return the kernels as (N, groups, places, H, scale, W, scale)."""
    n, _, h, w = features.shape
    return masks.view(n, groups, -1, h, masks.size(2) // h, w, masks.size(3) // w)


def _padded(features: Tensor, kernel_size: int, groups: int) -> Tensor:
    """Return the features as (N, groups, C / groups, H, W), with a border of zeros."""
    radius = kernel_size // 2
    return F.pad(features, (radius,) * 4).unflatten(1, (groups, -1))


def _places(kernel_size: int, features: Tensor) -> Iterator[tuple[int, slice, slice]]:
    """Give every place of a kernel, and the part of the padded features that it sees."""
    h, w = features.shape[-2:]
    for place in range(kernel_size**2):
        row, column = divmod(place, kernel_size)
        yield place, slice(row, row + h), slice(column, column + w)
