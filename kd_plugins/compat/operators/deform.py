"""Deformable convolution, without and with a modulating mask (Dai et al., Zhu et al.)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor

from kd_plugins.compat.operators.precision import full


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Write the convolution.

    Args:
        input: (N, C, H, W)
        weight: (D, C / group, kH, kW)
        offset: Rows and columns by turns for every place of the kernel,
            (N, 2 * deformable_group * kH * kW, H', W').
        output: Where the result goes, (N, D, H', W').
        columns: Memory of mmcv's own kernels.
        ones: Likewise.
        kW: Width of the kernel; kH its height, dW and dH the stride.
        im2col_step: How many pictures mmcv's own kernels take at once.
    """
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    output.copy_(_convolve(input, weight, offset, None, None, geometry))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Write the gradients of the input and of the offsets.

    torchvision computes all gradients in one go. That of the weight is left in
    ``columns``, which mmcv hands to :func:`deform_conv_backward_parameters` next.
    """
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    grads = _gradients(gradOutput, input, weight, offset, None, None, geometry)
    gradInput.copy_(grads[0])
    gradOffset.copy_(grads[2])
    columns.resize_(weight.shape).copy_(grads[1])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Add the gradient of the weight, times ``scale``."""
    if columns.shape == gradWeight.shape:
        grad = columns.clone()
        # The next backward pass of the same graph must not find this one's.
        columns.resize_(0)
    else:
        geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
        grad = _gradients(gradOutput, input, gradWeight, offset, None, None, geometry)[1]
    gradWeight.add_(grad.to(gradWeight.dtype), alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Write the convolution; ``mask`` has a factor for every place of the kernel.

    Args:
        input: (N, C, H, W)
        weight: (D, C / group, kernel_h, kernel_w)
        bias: (D,), if ``with_bias``.
        ones: Memory of mmcv's own kernels.
        offset: (N, 2 * deformable_group * kernel_h * kernel_w, H', W'); of larger maps the
            first numbers count, as mmcv reads them (DyHead gives it such).
        mask: (N, deformable_group * kernel_h * kernel_w, H', W'), likewise.
        output: Where the result goes, (N, D, H', W').
        columns: Memory of mmcv's own kernels.
        with_bias: Whether there is a bias.
    """
    geometry = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    offset, mask = (_first(maps, output) for maps in (offset, mask))
    output.copy_(_convolve(input, weight, offset, mask, bias if with_bias else None, geometry))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Write the gradients of all that the forward takes."""
    geometry = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    offset, mask = (_first(maps, grad_output) for maps in (offset, mask))
    grads = _gradients(
        grad_output, input, weight, offset, mask, bias if with_bias else None, geometry
    )
    places = (grad_input, grad_weight, grad_offset, grad_mask, grad_bias)
    for place, grad in zip(places, grads, strict=True):
        if place is not grad_bias or with_bias:
            place.copy_(_filled_up(grad, place))


def _first(maps: Tensor, output: Tensor) -> Tensor:
    """Return each picture's first numbers as maps of the output's size."""
    if maps.shape[2:] == output.shape[2:]:
        return maps
    shape = (maps.size(1), *output.shape[2:])
    return maps.flatten(1)[:, : math.prod(shape)].unflatten(1, shape)


def _filled_up(grad: Tensor, maps: Tensor) -> Tensor:
    """Return a gradient of :func:`_first` as one of the whole maps."""
    if grad.shape == maps.shape:
        return grad
    left_out = math.prod(maps.shape[1:]) - math.prod(grad.shape[1:])
    return F.pad(grad.flatten(1), (0, left_out)).view(maps.shape)


def _arguments(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: tuple[int, ...],
) -> tuple:
    """Return torchvision's arguments; what is left out is a tensor of any values."""
    filled_mask = input.new_zeros((len(input), 1)) if mask is None else mask
    filled_bias = weight.new_zeros(weight.size(0)) if bias is None else bias
    tensors = (input, weight, offset, filled_mask, filled_bias)
    return (*map(full, tensors), *geometry, mask is not None)


def _convolve(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: tuple[int, ...],
) -> Tensor:
    arguments = _arguments(input, weight, offset, mask, bias, geometry)
    return torch.ops.torchvision.deform_conv2d(*arguments)


def _gradients(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: tuple[int, ...],
) -> tuple[Tensor, ...]:
    """Return the gradients of input, weight, offset, mask and bias."""
    arguments = _arguments(input, weight, offset, mask, bias, geometry)
    grads = torch.ops.torchvision._deform_conv2d_backward(full(grad_output), *arguments)
    _forget_the_border(grads[2], arguments[2], weight, geometry)
    return grads


def _forget_the_border(
    grad: Tensor, offset: Tensor, weight: Tensor, geometry: tuple[int, ...]
) -> None:
    """Let what is seen exactly a pixel before the first one have no gradient, as mmcv does.

    torchvision takes the slope to the other side there. Offsets are 0 at first, so
    that this is where all of the padding is.
    """
    stride, padding, dilation = geometry[:2], geometry[2:4], geometry[4:6]
    kernel = weight.shape[2:]
    parts = (-1, *kernel, 2)
    grads, offsets = (value.unflatten(1, parts) for value in (grad, offset))
    for axis in (0, 1):
        place = torch.arange(offset.size(2 + axis), device=offset.device) * stride[axis]
        inside = torch.arange(kernel[axis], device=offset.device) * dilation[axis]
        place = place.view(-1, *[1] * (1 - axis)) - padding[axis]
        inside = inside.view(-1, *[1] * (3 - axis))
        position = offsets[..., axis, :, :] + (inside + place)
        grads[..., axis, :, :].masked_fill_(position == -1, 0)
