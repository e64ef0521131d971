"""Convolutions that the processor computes wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from kd_plugins.compat import bfloat16_gradient_is_wrong
from kd_plugins.inspect.check.report import Report


@contextlib.contextmanager
def watch_convolutions(report: Report, student: nn.Module) -> Iterator[None]:
    """Report those of the student whose weights would get a wrong gradient in bfloat16."""
    found: dict[str, tuple[int, ...]] = {}
    handles = []
    for name, module in student.named_modules():
        if not isinstance(module, nn.Conv2d) or not module.weight.requires_grad:
            continue

        def look(
            module: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor, name: str = name
        ) -> None:
            if output.dtype is not torch.bfloat16 or output.device.type != 'cpu':
                return
            size = tuple(inputs[0].shape[-2:])
            if name not in found and bfloat16_gradient_is_wrong(module, size):
                found[name] = size

        handles.append(module.register_forward_hook(look))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if found:
        name, size = next(iter(found.items()))
        report.add(
            'warning',
            f"in bfloat16 this CPU gives {len(found)} of the student's convolutions gradients that "
            f'are partly uninitialised memory, where a map is smaller than the stride (first: '
            f'{name}, on a map of {size[0]} x {size[1]}).',
            'train in float32, or set torch.backends.mkldnn.enabled = False before the training.',
        )
