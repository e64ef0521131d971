"""In which precision the operators compute."""

from __future__ import annotations

from torch import Tensor


def full(tensor: Tensor) -> Tensor:
    """Return a tensor in float32 if it has 16 bits, itself if not.

    Results are rounded once, when they are written; torchvision's operators take
    neither bfloat16 nor, on a CPU, float16.
    """
    return tensor.float() if tensor.element_size() < 4 else tensor
