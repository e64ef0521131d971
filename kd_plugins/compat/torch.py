"""What torch does differently by its release and by the processor."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def allow_two_backward_passes() -> None:
    """Let compiled code be gone backward through twice, as DOT does.

    Since torch 2.6 what ``torch.compile`` makes reuses memory of the forward pass
    in the first backward pass, and refuses the second one.
    """
    from torch._functorch import config

    if hasattr(config, 'donated_buffer'):
        config.donated_buffer = False


def onnx_exporter() -> dict[str, Any]:
    """Return what makes ``torch.onnx.export`` use the exporter that both stacks have.

    torch 2.9 made another one the default, which needs onnxscript.
    """
    import torch

    parameters = inspect.signature(torch.onnx.export).parameters
    return dict(dynamo=False) if 'dynamo' in parameters else {}


def bfloat16_gradient_is_wrong(conv: nn.Conv2d, size: Sequence[int]) -> bool:
    """Try whether a convolution's weight gets a wrong gradient in bfloat16 on this CPU.

    Where a map is smaller than the stride, some weights see padding only, and their
    gradient is 0. On processors with AVX512, oneDNN (torch 2.1.2 and 2.15.0, both seen)
    leaves it as the memory was. What the memory was differs, hence several tries.

    Args:
        conv: The convolution; its sizes are read, not its weights.
        size: Height and width of the map that it sees.
    """
    import torch
    from torch.nn.functional import conv2d

    if all(length >= step for length, step in zip(size, conv.stride, strict=True)):
        return False
    gradients: list[torch.Tensor] = []
    for dtype in (torch.float32, *(4 * [torch.bfloat16])):
        maps = torch.ones(1, conv.in_channels, *size, dtype=dtype)
        weight = torch.zeros(conv.weight.shape, dtype=dtype, requires_grad=True)
        out = conv2d(maps, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
        used = [torch.ones_like(weight) for _ in range(8)]
        del used  # memory that is not zero, for what comes next
        gradients += torch.autograd.grad(out.sum(), weight)
    # Each is a small whole number, which bfloat16 holds exactly.
    return not all(torch.equal(gradients[0], gradient.float()) for gradient in gradients[1:])
