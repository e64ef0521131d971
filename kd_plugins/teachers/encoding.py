"""What recorders have recorded of a batch, as arrays of one sample each, and back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_plugins.losses.base import at_least_float32
from kd_plugins.structures import HeadOutputs, TopLogits

#: The types of torch that records are stored in; integers are as they are.
_STORED = {torch.float16: '<f2', torch.float32: '<f4', torch.int32: '<i4', torch.int64: '<i8'}


class NotStorableError(ValueError):
    """A recorder has recorded what no store can keep."""


def take_apart(value: Any, parts: list[Tensor], dtype: torch.dtype, top: Top | None = None) -> Any:
    """Add the tensors that something recorded is made of, each (N, ...), and return its form.

    Args:
        value: A tensor, several in tuples or lists, or the outputs of a detection head.
        parts: Gets the tensors, on the CPU, in the type that they are stored in.
        dtype: Of floating-point numbers. Boxes keep float32: their places need it.
        top: Keeps the largest logits of it only.

    Returns:
        The form, as JSON knows it.

    Raises:
        NotStorableError: If it is something else, or too large for the type.
    """
    if isinstance(value, Tensor):
        if top is not None:
            return take_apart(top(value), parts, dtype)
        parts.append(_stored(value, dtype))
        return 'tensor'
    if isinstance(value, (tuple, list)):
        kind = 'tuple' if isinstance(value, tuple) else 'list'
        return {kind: [take_apart(each, parts, dtype, top) for each in value]}
    if isinstance(value, TopLogits):
        parts.extend((_stored(value.values, dtype), value.indices.to('cpu', torch.int32)))
        parts.append(_stored(value.rest, torch.float32))
        return dict(top=value.num_classes, taus=list(value.taus))
    if isinstance(value, HeadOutputs):
        parts.append(_stored(value.cls_logits, dtype))
        parts.append(_stored(value.boxes, torch.float32))
        sizes = torch.tensor([value.level_sizes] * len(value.cls_logits), dtype=torch.int32)
        parts.append(sizes)
        if value.bin_logits is not None:
            parts.append(_stored(value.bin_logits, dtype))
        return dict(head=value.head, bins=value.bin_logits is not None)
    raise NotStorableError(f'a {type(value).__name__}, which is no tensor of the batch')


def put_together(form: Any, parts: Iterator[Tensor], device: torch.device) -> Any:
    """Return what :func:`take_apart` was given, floating-point numbers in float32.

    Args:
        form: What it returned.
        parts: The tensors, each (N, ...), on the CPU.
        device: Where what it returns is to be.
    """

    def following() -> Tensor:
        return _brought(next(parts), device)

    if form == 'tensor':
        return following()
    if 'top' in form:
        values, indices, rest = following(), following(), following()
        return TopLogits(values, indices.long(), rest, tuple(form['taus']), form['top'])
    if 'head' in form:
        logits, boxes, sizes = following(), following(), next(parts)
        bins = following() if form['bins'] else None
        return HeadOutputs(form['head'], _row(sizes), logits, lambda: boxes, bins)
    ((kind, forms),) = form.items()
    several = [put_together(each, parts, device) for each in forms]
    return tuple(several) if kind == 'tuple' else several


def encode(
    buffers: Mapping[str, Sequence[Any]], dtype: torch.dtype, top: Top | None
) -> tuple[dict[str, Any], list[Tensor]]:
    """Return the layout and the parts of what recorders have recorded of a batch.

    Args:
        buffers: What each has recorded, one entry for every call of what it reads.
        dtype, top: As in :func:`take_apart`.

    Returns:
        What :func:`decode` needs to know of all samples, as JSON knows it; and the
        parts, each (N, ...).

    Raises:
        NotStorableError: Naming the record.
    """
    parts: list[Tensor] = []
    forms: dict[str, Any] = {}
    for name, buffer in buffers.items():
        first = len(parts)
        try:
            form = [take_apart(each, parts, dtype, top) for each in buffer]
        except NotStorableError as error:
            raise NotStorableError(f'the record {name} is {error}') from None
        forms[name] = [form, first, len(parts)]
    sizes = {len(part) for part in parts}
    if len(sizes) != 1:
        raise NotStorableError(f'records are of batches of {sorted(sizes)} samples')
    kinds = [[_STORED[part.dtype], part.dim() - 1] for part in parts]
    return dict(forms=forms, parts=kinds), parts


def decode(
    layout: Mapping[str, Any], contents: Sequence[Any], names: Iterable[str], device: torch.device
) -> dict[str, list[Any]]:
    """Return what the recorders of these names have recorded of samples, as a batch.

    Args:
        layout: What :func:`encode` gave.
        contents: The bytes of each sample, from :func:`to_bytes`.
        names: Those of the records that are wanted.
        device: Where tensors are to be.

    Raises:
        NotStorableError: If the samples have no common shape.
    """
    each = [from_bytes(layout, content) for content in contents]
    buffers = {}
    for name in names:
        forms, first, last = layout['forms'][name]
        try:
            parts = [np.stack([arrays[k] for arrays in each]) for k in range(first, last)]
        except ValueError:
            raise NotStorableError(
                f'the record {name} is of pictures of several sizes in one batch'
            ) from None
        tensors = iter([torch.from_numpy(part) for part in parts])
        buffers[name] = [put_together(form, tensors, device) for form in forms]
    return buffers


def to_bytes(parts: Sequence[Tensor], i: int) -> bytes:
    """Return the bytes of one sample: the shapes of its parts, then their numbers."""
    shapes = [side for part in parts for side in part.shape[1:]]
    contents = (part[i].contiguous().numpy().tobytes() for part in parts)
    return b''.join((np.array(shapes, '<i4').tobytes(), *contents))


def from_bytes(layout: Mapping[str, Any], content: Any) -> list[np.ndarray]:
    """Return the parts of one sample, views of its bytes."""
    kinds = layout['parts']
    at = 4 * sum(dims for _, dims in kinds)
    sides = iter(np.frombuffer(content, '<i4', at // 4).tolist())
    arrays = []
    for kind, dims in kinds:
        shape = [next(sides) for _ in range(dims)]
        array = np.frombuffer(content, kind, math.prod(shape), at)
        arrays.append(array.reshape(shape))
        at += array.nbytes
    return arrays


class Top:
    """Keeps the largest logits, and the log-sum-exp of all others at given temperatures.

    Args:
        k: How many logits.
        taus: The temperatures.
    """

    def __init__(self, k: int, taus: Sequence[float]) -> None:
        self.k = k
        self.taus = tuple(taus)

    def __call__(self, logits: Tensor) -> TopLogits:
        """Return what is kept of logits, (N, C)."""
        if logits.dim() != 2 or logits.shape[1] <= self.k:
            raise NotStorableError(
                f'of shape {tuple(logits.shape)}, of which top_k={self.k} keeps nothing apart: it '
                'is for logits (N, C) of more classes'
            )
        logits = at_least_float32(logits)
        values, indices = logits.topk(self.k, dim=1)
        others = logits.scatter(1, indices, -math.inf)
        rest = torch.stack([torch.logsumexp(others / tau, dim=1) for tau in self.taus], dim=1)
        return TopLogits(values, indices, rest, self.taus, logits.shape[1])


def _stored(x: Tensor, dtype: torch.dtype) -> Tensor:
    if not x.dim():
        raise NotStorableError('a tensor without a batch')
    x = x.detach()
    if not x.is_floating_point():
        return x.to('cpu', torch.int32 if x.dtype == torch.int32 else torch.int64)
    # Half precision first leaves the device with half of the bytes.
    stored = x.to(dtype).cpu()
    if not stored.isfinite().all():
        raise NotStorableError(
            f'not finite in {str(dtype).removeprefix("torch.")} (its largest number is '
            f'{float(x.abs().max()):.3g})'
        )
    return stored


def _brought(x: Tensor, device: torch.device) -> Tensor:
    # From other memory the copy would wait for what the device is doing.
    x = x.pin_memory() if device.type == 'cuda' else x
    x = x.to(device, non_blocking=True)
    return x.float() if x.is_floating_point() else x


def _row(sizes: Tensor) -> tuple[int, ...]:
    first, *others = sizes.tolist()
    if any(other != first for other in others):
        raise NotStorableError('of pictures of several sizes in one batch')
    return tuple(first)
