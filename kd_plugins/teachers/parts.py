"""The tensors that a record is taken apart into."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: What ``Part.beyond`` says of rows that are listed with their places.
LISTED = 'listed'
#: From here on float16 keeps eleven bits of a number, below fewer and fewer.
_SMALLEST = 2.0**-14


class NotStorableError(ValueError):
    """A recorder has recorded what no store can keep."""


class Sizes(NamedTuple):
    """How large the pictures of a batch are, in pixels.

    Args:
        batch: Height and width of the padded batch.
        own: Of every picture with the padding that it has anywhere.
    """

    batch: tuple[int, int]
    own: Sequence[tuple[int, int]]


def sizes_of(inputs: Tensor, infos: Sequence[Mapping[str, Any]], divisor: int) -> Sizes:
    """Return how large the pictures of a batch are.

    Args:
        inputs: The batch.
        infos: Meta information of its samples.
        divisor: Of the sides that the preprocessor pads a batch to.
    """
    size = (inputs.shape[-2], inputs.shape[-1])
    # mmpretrain pads as well, and says nothing of it.
    loaded = [tuple(info.get('view_size', size)) for info in infos]
    alike = len({*loaded}) == 1
    own = []
    for info, (*_, height, width) in zip(infos, loaded, strict=True):
        padded = (-(-height // divisor) * divisor, -(-width // divisor) * divisor)
        own.append(tuple(info.get('pad_shape', size if alike else padded)[:2]))
    return Sizes(size, own)


class Part(NamedTuple):
    """One tensor of a record.

    Args:
        values: (N, ...), or one a sample, on the CPU, in the type that it is stored in.
        stride: Of a map, (N, rows, columns, channels), pixels from row to row; 0 of what
            is no map.
        beyond: What a map has in the places beyond the picture: ``'background'``,
            ``'zero'``, or ``'cell'``, a box around the place; ``'listed'`` of what is
            no map, but knows its places.
    """

    values: Tensor | Sequence[Tensor]
    stride: int = 0
    beyond: str = ''


def as_stored(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor on the CPU in the type that it is stored in.

    Raises:
        NotStorableError: If it has no batch, a number does not fit, or all are so small that
            float16 keeps little of them.
    """
    if not x.dim():
        raise NotStorableError('a tensor without a batch')
    x = x.detach()
    if x.is_complex():
        raise NotStorableError('complex numbers')
    if not x.is_floating_point():
        # A mask that came back as numbers would choose places by their numbers.
        kept = x.dtype in (torch.bool, torch.int32)
        return x.to('cpu', x.dtype if kept else torch.int64)
    # Half precision first leaves the device with half of the bytes.
    stored = x.to(dtype).cpu()
    largest, name = _largest(stored), str(dtype).removeprefix('torch.')
    what = ''
    if not math.isfinite(largest):
        # Another type helps only where the numbers themselves are finite.
        what = f'not finite in {name}' if math.isfinite(_largest(x)) else 'not finite'
    elif dtype is torch.float16 and largest < _SMALLEST and _largest(x) > 0:
        what = f'too small in {name}'
    if what:
        raise NotStorableError(f'{what} (its largest number is {_largest(x):.3g})')
    return stored


def _largest(x: Tensor) -> float:
    return float(x.abs().max()) if x.numel() else 0.0


def brought(x: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device, floating-point numbers in float32."""
    # From other memory the copy would wait for what the device is doing.
    x = x.pin_memory() if device.type == 'cuda' else x
    x = x.to(device, non_blocking=True)
    return x.float() if x.is_floating_point() else x
