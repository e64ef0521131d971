"""What recorders have recorded of a batch, as the bytes of one sample each, and back.

A record is taken apart into tensors, its parts. What a detection head says of a picture
depends on the padding of its batch by the places only: its parts are maps, which are kept
as far as the picture's own padding reaches, and put into the grid of another batch by
level, row and column.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kd_plugins.losses.base import at_least_float32
from kd_plugins.structures import HeadOutputs, TopLogits

#: The types of torch that records are stored in.
_STORED = {torch.float16: '<f2', torch.float32: '<f4', torch.int32: '<i4', torch.int64: '<i8'}
#: What is said of places beyond a picture: no class at all.
_BACKGROUND = -12.0


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


class Part(NamedTuple):
    """One tensor of a record.

    Args:
        values: (N, ...), on the CPU, in the type that it is stored in.
        stride: Of a map, (N, rows, columns, channels), pixels from row to row; 0 of what
            is no map.
        beyond: What a map has in the places beyond the picture: ``'background'``,
            ``'zero'``, or ``'cell'``, a box around the place.
    """

    values: Tensor
    stride: int = 0
    beyond: str = ''


def encode(
    buffers: Mapping[str, Sequence[Any]],
    dtype: torch.dtype,
    sizes: Sizes,
    top: Top | None = None,
    strides: Mapping[str, Sequence[int]] | None = None,
) -> tuple[dict[str, Any], list[bytes]]:
    """Return the layout and the bytes of what recorders have recorded of a batch.

    Args:
        buffers: What each has recorded, one entry for every call of what it reads.
        dtype: What floating-point numbers are stored in. Boxes keep float32: their
            places need it.
        sizes: Those of the pictures.
        top: Keeps the largest logits only.
        strides: Those of the levels of heads, by the name of their record.

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
            form = [_take_apart(each, parts, dtype, top, sizes, of_levels) for each in buffer]
        except NotStorableError as error:
            raise NotStorableError(f'the record {name} is {error}') from None
        forms[name] = [form, first, len(parts)]
    wrong = [len(part.values) for part in parts if len(part.values) != len(sizes.own)]
    if wrong or not parts:
        raise NotStorableError(
            f'a record is of {wrong[0] if wrong else "no"} samples in a batch of {len(sizes.own)}'
        )
    layout = [
        [_STORED[part.values.dtype], part.values.dim() - 1, part.stride, part.beyond]
        for part in parts
    ]
    whole = dict(forms=forms, parts=layout)
    check_padding(whole, sizes)
    contents = []
    for i, (height, width) in enumerate(sizes.own):
        arrays = [
            part.values[i, : -(-height // part.stride), : -(-width // part.stride)]
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
        if not all(stride for _, _, stride, _ in layout['parts'][first:last]):
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
        parts = (_brought(_joined(each, kind, size, name), device) for each, kind in kinds)
        buffers[name] = [_put_together(form, parts) for form in forms]
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
) -> Any:
    """Add the parts of something recorded, and return its form, as JSON knows it."""
    if isinstance(value, Tensor) and top is not None:
        value = top(value)
    if isinstance(value, Tensor):
        parts.append(Part(_stored(value, dtype)))
        return 'tensor'
    if isinstance(value, (tuple, list)):
        kind = 'tuple' if isinstance(value, tuple) else 'list'
        return {kind: [_take_apart(x, parts, dtype, top, sizes, strides) for x in value]}
    if isinstance(value, TopLogits):
        parts.append(Part(_stored(value.values, dtype)))
        parts.append(Part(value.indices.to('cpu', torch.int32)))
        parts.append(Part(_stored(value.rest, torch.float32)))
        return dict(top=value.num_classes, taus=list(value.taus))
    if isinstance(value, HeadOutputs):
        return _take_head_apart(value, parts, dtype, sizes, strides)
    raise NotStorableError(f'a {type(value).__name__}, which is no tensor of the batch')


def _take_head_apart(
    value: HeadOutputs,
    parts: list[Part],
    dtype: torch.dtype,
    sizes: Sizes,
    strides: Sequence[int],
) -> Any:
    for stride, grid in zip(strides, value.grids, strict=True):
        if grid != _grid(sizes.batch, stride):
            raise NotStorableError(
                f'of {grid[0]} x {grid[1]} places at stride {stride} for a batch of '
                f'{sizes.batch[0]} x {sizes.batch[1]} pixels, whose places cannot be found again '
                'in another batch (model.teacher_input_size)'
            )
    anchors = [n // (h * w) for n, (h, w) in zip(value.level_sizes, value.grids, strict=True)]
    fields: list[tuple[Tensor, torch.dtype, str]] = [
        (value.cls_logits, dtype, 'background'),
        (value.boxes, torch.float32, 'cell'),
    ]
    if value.bin_logits is not None:
        fields.append((value.bin_logits.flatten(2), dtype, 'zero'))
    for field, of, beyond in fields:
        levels = _stored(field, of).split(value.level_sizes, dim=1)
        for level, (h, w), stride in zip(levels, value.grids, strides, strict=True):
            parts.append(Part(level.reshape(len(level), h, w, -1), stride, beyond))
    return dict(head=value.head, anchors=anchors, fields=len(fields))


def _put_together(form: Any, parts: Iterator[Tensor]) -> Any:
    """Return what :func:`_take_apart` was given."""
    if form == 'tensor':
        return next(parts)
    if 'top' in form:
        values, indices, rest = next(parts), next(parts), next(parts)
        return TopLogits(values, indices.long(), rest, tuple(form['taus']), form['top'])
    if 'head' in form:
        anchors, fields = form['anchors'], []
        for _ in range(form['fields']):
            levels = [next(parts) for _ in anchors]
            grids = tuple((x.shape[1], x.shape[2]) for x in levels)
            each = zip(levels, anchors, strict=True)
            fields.append([x.reshape(len(x), -1, x.shape[3] // k) for x, k in each])
        logits, boxes, *bins = (torch.cat(levels, dim=1) for levels in fields)
        return HeadOutputs(
            head=form['head'],
            level_sizes=tuple(level.shape[1] for level in fields[0]),
            cls_logits=logits,
            decode=lambda: boxes,
            bin_logits=bins[0].unflatten(2, (4, -1)) if bins else None,
            grids=grids,
        )
    ((kind, forms),) = form.items()
    several = [_put_together(each, parts) for each in forms]
    return tuple(several) if kind == 'tuple' else several


def _joined(
    arrays: np.ndarray | Sequence[np.ndarray],
    part: Sequence[Any],
    size: tuple[int, int],
    name: str,
) -> Tensor:
    """Return the arrays of samples as a batch, maps in the grid of that batch."""
    _, _, stride, beyond = part
    if stride and any(array.shape[:2] != _grid(size, stride) for array in arrays):
        arrays = [_in_grid(array, _grid(size, stride), beyond) for array in arrays]
    if any(array.shape != arrays[0].shape for array in arrays):
        raise NotStorableError(
            f'the record {name} is of several shapes in one batch, '
            f'{", ".join(str(shape) for shape in sorted({array.shape for array in arrays}))}'
        )
    return torch.from_numpy(arrays if isinstance(arrays, np.ndarray) else np.stack(arrays))


def _in_grid(array: np.ndarray, grid: tuple[int, int], beyond: str) -> np.ndarray:
    """Return a map of one picture in a larger grid."""
    whole = np.full((*grid, array.shape[2]), _BACKGROUND if beyond == 'background' else 0.0)
    if beyond == 'cell':
        rows, columns = np.indices(grid)
        cells = np.stack([columns, rows, columns + 1, rows + 1], axis=-1)
        whole += np.tile(cells, array.shape[2] // 4)
    rows, columns = array.shape[:2]
    whole[:rows, :columns] = array
    return whole.astype(array.dtype)


def _grid(size: tuple[int, int], stride: int) -> tuple[int, int]:
    return -(-size[0] // stride), -(-size[1] // stride)


def _stored(x: Tensor, dtype: torch.dtype) -> Tensor:
    if not x.dim():
        raise NotStorableError('a tensor without a batch')
    x = x.detach()
    if not x.is_floating_point():
        return x.to('cpu', torch.int32 if x.dtype == torch.int32 else torch.int64)
    # Half precision first leaves the device with half of the bytes.
    stored = x.to(dtype).cpu()
    if not stored.isfinite().all():
        # Another type helps only where the numbers themselves are finite.
        where = f' in {str(dtype).removeprefix("torch.")}' if x.isfinite().all() else ''
        raise NotStorableError(
            f'not finite{where} (its largest number is {float(x.abs().max()):.3g})'
        )
    return stored


def _brought(x: Tensor, device: torch.device) -> Tensor:
    # From other memory the copy would wait for what the device is doing.
    x = x.pin_memory() if device.type == 'cuda' else x
    x = x.to(device, non_blocking=True)
    return x.float() if x.is_floating_point() else x
