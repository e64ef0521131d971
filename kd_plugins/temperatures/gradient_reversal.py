"""CTKD's gradient reversal: an identity whose gradient is multiplied on the way back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        # A view, not x itself: autograd treats a returned input as changed in place.
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Return ``x``, whose gradient will be multiplied by ``factor``.

    With a factor below 0 the optimizer that lowers the loss by every other
    parameter raises it by what lies behind ``x``.

    Source: Ganin, Lempitsky, "Unsupervised Domain Adaptation by
    Backpropagation", ICML 2015, arXiv 1409.7495, equation 4. There the factor
    is called -lambda; CTKD's published code calls the factor itself lambda.
    """
    return _ScaleGradient.apply(x, factor)
