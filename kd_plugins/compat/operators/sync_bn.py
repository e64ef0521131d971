"""The parts of mmcv's synchronised batch normalisation that lie between its reductions."""

from __future__ import annotations

from torch import Tensor


def sync_bn_forward_mean(input: Tensor, mean: Tensor) -> None:
    """Write every channel's mean of an (N, C, L) input."""
    mean.copy_(input.float().mean((0, 2)))


def sync_bn_forward_var(input: Tensor, mean: Tensor, var: Tensor) -> None:
    """Write every channel's mean squared distance from ``mean``."""
    var.copy_((input.float() - mean[:, None]).square().mean((0, 2)))


def sync_bn_forward_output(
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    norm: Tensor,
    std: Tensor,
    output: Tensor,
    eps: float,
    momentum: float | Tensor,
    group_size: int,
) -> None:
    """Write the normalised input, its deviation and the output; update running statistics.

    Args:
        input: (N, C, L)
        mean: Of all ranks, (C,), as all that follows.
        group_size: How many ranks there are.
    """
    std.copy_((var + eps).sqrt())
    norm.copy_((input.float() - mean[:, None]) / std[:, None])
    if weight is None or bias is None:
        output.copy_(norm)
    else:
        output.copy_(norm * weight[:, None] + bias[:, None])
    if running_mean is not None and running_var is not None:
        count = input.size(0) * input.size(2) * group_size
        unbiased = var * count / (count - 1) if count > 1 else var
        running_mean.copy_(momentum * mean + (1 - momentum) * running_mean)
        running_var.copy_(momentum * unbiased + (1 - momentum) * running_var)


def sync_bn_backward_param(
    grad_output: Tensor, norm: Tensor, grad_weight: Tensor, grad_bias: Tensor
) -> None:
    """Write the gradients of weight and bias."""
    grad_weight.copy_((grad_output.float() * norm).sum((0, 2)))
    grad_bias.copy_(grad_output.float().sum((0, 2)))


def sync_bn_backward_data(
    grad_output: Tensor,
    weight: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    norm: Tensor,
    std: Tensor,
    grad_input: Tensor,
) -> None:
    """Write the gradient of the input; those of weight and bias are means over the ranks."""
    count = grad_output.size(0) * grad_output.size(2)
    by_statistics = (grad_weight[:, None] * norm + grad_bias[:, None]) / count
    grad_input.copy_((grad_output.float() - by_statistics) * (weight / std)[:, None])
