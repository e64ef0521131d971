"""Sigmoid and softmax focal loss, and their gradients (Lin et al., ICCV 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

from kd_plugins.compat.operators.precision import full

# The smallest probability whose logarithm mmcv's kernels take; they use it in float64, too.
_TINY = torch.finfo(torch.float32).tiny


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the loss of every logit.

    Args:
        input: Logits, (N, C).
        target: Classes, (N,); C, or any other number, is background.
        weight: A factor for each class, (C,), or empty. Background has the factor 1.
        output: Where the loss goes, (N, C).
        gamma: Exponent of the modulating factor.
        alpha: Weight of the positive class; ``1 - alpha`` is the negative ones'.
    """
    p = full(input).sigmoid()
    q = 1 - p
    positive = alpha * q**gamma * p.clamp(min=_TINY).log()
    negative = (1 - alpha) * p**gamma * q.clamp(min=_TINY).log()
    loss = -torch.where(_is_target(input, target), positive, negative)
    output.copy_(_weighted(loss, target, weight))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the derivative of every logit's loss by this logit; arguments as in the forward."""
    p = full(input).sigmoid()
    q = 1 - p
    positive = alpha * q**gamma * (q - gamma * p * p.clamp(min=_TINY).log())
    negative = (1 - alpha) * p**gamma * (gamma * q * q.clamp(min=_TINY).log() - p)
    grad = -torch.where(_is_target(input, target), positive, negative)
    grad_input.copy_(_weighted(grad, target, weight))


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the loss of every row.

    Args:
        input: Probabilities, (N, C).
        target: Classes, (N,); a row with a negative one is left out.
        weight: A factor for each class, (C,), or empty.
        output: Where the loss goes, (N,).
        gamma: Exponent of the modulating factor.
        alpha: Weight of every class.
    """
    p = _of_target(full(input), target)
    loss = -alpha * (1 - p) ** gamma * p.clamp(min=_TINY).log()
    output.copy_(_weighted(loss.where(target >= 0, loss.new_zeros(())), target, weight))


def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write the derivative of every row's loss by its logits; arguments as in the forward."""
    probabilities = full(input)
    p = _of_target(probabilities, target)
    q = 1 - p
    by_log = alpha * (gamma * q ** (gamma - 1) * p * p.clamp(min=_TINY).log() - q**gamma)
    by_log = _weighted(by_log.where(target >= 0, by_log.new_zeros(())), target, weight)
    buff.copy_(by_log)
    is_target = _is_target(input, target).to(probabilities)
    grad_input.copy_(by_log[:, None] * (is_target - probabilities))


def _is_target(logits: Tensor, target: Tensor) -> Tensor:
    return target[:, None] == torch.arange(logits.size(1), device=logits.device)


def _of_target(probabilities: Tensor, target: Tensor) -> Tensor:
    index = target.clamp(0, probabilities.size(1) - 1)
    return probabilities.gather(1, index[:, None]).squeeze(1)


def _weighted(values: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    if weight.numel() == 0:
        return values
    # A last 1 is for what is no class: mmcv's kernels read past the end of the weights there.
    factors = torch.cat((full(weight), weight.new_ones(1, dtype=values.dtype)))
    index = torch.where((target >= 0) & (target < weight.numel()), target, weight.numel())
    return values * factors[index].view(-1, *[1] * (values.dim() - 1))
