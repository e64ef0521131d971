"""What recorders have recorded of a batch, as the bytes of one sample each, and back.

A record is taken apart into tensors, its parts; those of a detection head's are in
:mod:`kd_plugins.teachers.heads`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_plugins.losses.base import at_least_float32
from kd_plugins.structures import HeadOutputs, TopLogits
from kd_plugins.teachers import heads
from kd_plugins.teachers.parts import LISTED, NotStorableError, Part, Sizes, as_stored, brought

#: The types of torch that records are stored in.
_STORED = {torch.float16: '<f2', torch.float32: '<f4', torch.int16: '<i2', torch.int32: '<i4',
           torch.int64: '<i8', torch.bool: '|b1'}  # fmt: skip


def encode(
    buffers: Mapping[str, Sequence[Any]],
    dtype: torch.dtype,
    sizes: Sizes,
    top: Top | None = None,
    strides: Mapping[str, Sequence[int]] | None = None,
    min_score: float | None = None,
) -> tuple[dict[str, Any], list[bytes]]:
    """Return the layout and the bytes of what recorders have recorded of a batch.

    Args:
        buffers: What each has recorded, one entry for every call of what it reads.
        dtype: What floating-point numbers are stored in. Boxes keep float32: their
            places need it.
        sizes: Those of the pictures.
        top: Keeps the largest logits only.
        strides: Those of the levels of heads, by the name of their record.
        min_score: Keeps of heads the anchors only that have a class at least so probable.

    Returns:
        What :func:`decode` needs to know of all samples, as JSON knows it; and the
        bytes of every sample: the shapes of its parts, then their numbers.

    Raises:
        NotStorableError: Naming the record.
    """
    parts: list[Part] = []
    forms: dict[str, Any] = {}
    for name, buffer in buffers.items():
        first = len(parts)
        of_levels = (strides or {}).get(name, ())
        try:
            take = partial(_take_apart, parts=parts, dtype=dtype, top=top, sizes=sizes,
                           strides=of_levels, min_score=min_score)  # fmt: skip
            form = [take(each) for each in buffer]
        except NotStorableError as error:
            raise NotStorableError(f'the record {name} is {error}') from None
        counts = [len(part.values) for part in parts[first:]]
        wrong = [count for count in counts if count != len(sizes.own)]
        if wrong or not counts:
            raise NotStorableError(
                f'the record {name} is of {wrong[0] if wrong else "no"} samples in a batch of '
                f'{len(sizes.own)}, and its first dimension has to be the samples'
            )
        forms[name] = [form, first, len(parts)]
    layout = [
        [_STORED[part.values[0].dtype], part.values[0].dim(), part.stride, part.beyond]
        for part in parts
    ]
    whole = dict(forms=forms, parts=layout)
    check_padding(whole, sizes)
    contents = []
    for i, (height, width) in enumerate(sizes.own):
        arrays = [
            part.values[i][: -(-height // part.stride), : -(-width // part.stride)]
            if part.stride
            else part.values[i]
            for part in parts
        ]
        shapes = np.array([side for array in arrays for side in array.shape], '<i4')
        numbers = (array.contiguous().numpy().tobytes() for array in arrays)
        contents.append(b''.join((shapes.tobytes(), *numbers)))
    return whole, contents


def check_padding(layout: Mapping[str, Any], sizes: Sizes) -> None:
    """Refuse what nobody can tell the padding of a batch from.

    It has seen the padding, or has its size, so that in another batch it would be another.
    What heads say is put into the grid of that.

    Args:
        layout: What :func:`encode` gives.
        sizes: Those of the pictures of a batch.

    Raises:
        NotStorableError: Naming the record.
    """
    padded = next((own for own in sizes.own if tuple(own) != tuple(sizes.batch)), None)
    if padded is None:
        return
    for name, (_, first, last) in layout['forms'].items():
        if not all(stride or beyond for _, _, stride, beyond in layout['parts'][first:last]):
            raise NotStorableError(
                f'the record {name} is of the whole input, and a picture of {padded[0]} x '
                f'{padded[1]} pixels is padded to the {sizes.batch[0]} x {sizes.batch[1]} of its '
                'batch, which another batch has not'
            )


def decode(
    layout: Mapping[str, Any],
    contents: Sequence[Any],
    names: Iterable[str],
    size: tuple[int, int],
    device: torch.device,
) -> dict[str, list[Any]]:
    """Return what the recorders of these names have recorded of samples, as a batch.

    Floating-point numbers come in float32.

    Args:
        layout: What :func:`encode` gave.
        contents: The bytes of each sample.
        names: Those of the records that are wanted.
        size: Height and width of the padded batch in pixels.
        device: Where tensors are to be.

    Raises:
        NotStorableError: If the samples have no common shape.
    """
    arrays = _batches(layout, contents)
    buffers = {}
    for name in names:
        forms, first, last = layout['forms'][name]
        kinds = zip(arrays[first:last], layout['parts'][first:last], strict=True)
        parts = (_joined(each, kind, size, name, device) for each, kind in kinds)
        buffers[name] = [_put_together(form, parts, size, device) for form in forms]
    return buffers


def _batches(layout: Mapping[str, Any], contents: Sequence[Any]) -> list[Any]:
    """Return every part of all samples: one array, (N, ...), or one a sample."""
    begin = 4 * sum(dims for _, dims, *_ in layout['parts'])
    if any(len(x) != len(contents[0]) or x[:begin] != contents[0][:begin] for x in contents):
        return [*zip(*(arrays_of(layout, content) for content in contents), strict=True)]
    # All have the same shapes: a part is a range of columns.
    rows = np.frombuffer(b''.join(contents), np.uint8).reshape(len(contents), -1)
    batches, at = [], begin
    for one in arrays_of(layout, contents[0]):
        columns = rows[:, at : at + one.nbytes].copy()
        batches.append(columns.view(one.dtype).reshape(len(contents), *one.shape))
        at += one.nbytes
    return batches


def arrays_of(layout: Mapping[str, Any], content: Any) -> list[np.ndarray]:
    """Return the parts of one sample, views of its bytes."""
    kinds = layout['parts']
    at = 4 * sum(dims for _, dims, *_ in kinds)
    sides = iter(np.frombuffer(content, '<i4', at // 4).tolist())
    arrays = []
    for kind, dims, *_ in kinds:
        shape = [next(sides) for _ in range(dims)]
        array = np.frombuffer(content, kind, math.prod(shape), at)
        arrays.append(array.reshape(shape))
        at += array.nbytes
    return arrays


def forms_of(layout: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what a layout says of each record."""
    parts = layout['parts']
    return {name: (form, parts[a:b]) for name, (form, a, b) in layout['forms'].items()}


def records_of(layout: Mapping[str, Any], content: Any) -> dict[str, list[np.ndarray]]:
    """Return the parts of one sample by the names of their records, views of its bytes."""
    arrays = arrays_of(layout, content)
    return {name: arrays[first:last] for name, (_, first, last) in layout['forms'].items()}


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


def _take_apart(
    value: Any,
    parts: list[Part],
    dtype: torch.dtype,
    top: Top | None,
    sizes: Sizes,
    strides: Sequence[int],
    min_score: float | None,
) -> Any:
    """Add the parts of something recorded, and return its form, as JSON knows it."""
    if isinstance(value, Tensor) and top is not None:
        value = top(value)
    if isinstance(value, Tensor):
        parts.append(Part(as_stored(value, dtype)))
        return 'tensor'
    if isinstance(value, (tuple, list)):
        kind = 'tuple' if isinstance(value, tuple) else 'list'
        return {kind: [_take_apart(x, parts, dtype, top, sizes, strides, min_score) for x in value]}
    if isinstance(value, TopLogits):
        parts.append(Part(as_stored(value.values, dtype)))
        parts.append(Part(value.indices.to('cpu', torch.int32)))
        parts.append(Part(as_stored(value.rest, torch.float32)))
        return dict(top=value.num_classes, taus=list(value.taus))
    if isinstance(value, HeadOutputs):
        form, of_head = heads.take_apart(value, dtype, sizes, strides, min_score)
        parts.extend(of_head)
        return form
    raise NotStorableError(f'a {type(value).__name__}, which is no tensor of the batch')


def _put_together(
    form: Any, parts: Iterator[Any], size: tuple[int, int], device: torch.device
) -> Any:
    """Return what :func:`_take_apart` was given."""
    if form == 'tensor':
        return next(parts)
    if 'top' in form:
        values, indices, rest = next(parts), next(parts), next(parts)
        return TopLogits(values, indices.long(), rest, tuple(form['taus']), form['top'])
    if 'head' in form:
        return heads.put_together(form, parts)
    if 'listed' in form:
        return heads.put_listed_together(form, parts, size, device)
    ((kind, forms),) = form.items()
    several = [_put_together(each, parts, size, device) for each in forms]
    return tuple(several) if kind == 'tuple' else several


def _joined(
    arrays: np.ndarray | Sequence[np.ndarray],
    part: Sequence[Any],
    size: tuple[int, int],
    name: str,
    device: torch.device,
) -> Tensor | list[Tensor]:
    """Return the arrays of samples as a batch on the device, maps in the grid of that batch.

    What knows its places is left as it is.
    """
    _, _, stride, beyond = part
    if beyond == LISTED:
        return [torch.from_numpy(array.copy()) for array in arrays]
    if stride and any(array.shape[:2] != heads.grid_of(size, stride) for array in arrays):
        grid = heads.grid_of(size, stride)
        arrays = [heads.in_grid(array, grid, beyond) for array in arrays]
    if any(array.shape != arrays[0].shape for array in arrays):
        raise NotStorableError(
            f'the record {name} is of several shapes in one batch, '
            f'{", ".join(str(shape) for shape in sorted({array.shape for array in arrays}))}'
        )
    whole = arrays if isinstance(arrays, np.ndarray) else np.stack(arrays)
    return brought(torch.from_numpy(whole), device)
