"""Short hashes: of a picture, and of all that makes a dataset's views what they are."""

from __future__ import annotations

import json
import marshal
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_plugins.registry import name_of

#: Bytes of a picture that are hashed as they are; more are folded into so many first.
_FOLDED = 4096
#: A picture with more bytes is taken as pieces of 4,608, and of each a strip of 512 is read. Above
#: 2 MiB a piece has 8,704, and so on: a strip costs most by being in a page of memory of its own.
_LARGE, _STRIP, _PAGES = 2**16, 512, 2**21
#: Of the golden ratio: its multiples, modulo 2**64, lie evenly.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
#: Settings that say where data lie and how they are read, and nothing of what is in them.
_WHERE = frozenset(
    ('data_root', 'data_prefix', 'ann_file', 'backend_args', 'file_client_args', 'lazy_init',
     'serialize_data')
)  # fmt: skip


def picture_hash(inputs: Any) -> int:
    """Return a hash of a picture, or of several, from 0 to 2**64 - 1.

    Up to 64 KiB a picture that differs in one pixel has another hash, and one that differs in
    several has, but for a chance of 2**-32. Of a larger picture a ninth is read, in strips
    of 512 bytes over all of it, and less above 2 MiB, which costs about 1 percent of its loading.
    So a change in a small place may not be seen: of squares of 8 x 8 pixels a quarter is missed
    in 224 x 224 and 29 percent in 800 x 1333; of 24 x 24 none is, in either. The hash is
    the same on every machine.

    Args:
        inputs: What a pipeline returns as ``inputs``: a tensor of any shape and type,
            before normalisation and padding; or several in a list or a dictionary.
    """
    digest = blake2b(digest_size=8)
    for tensor in _tensors(inputs):
        digest.update(_form(tensor.shape, tensor.dtype))
        content = _content(tensor)
        size, row = content.size, _FOLDED
        if size > _LARGE:
            row = _STRIP + _FOLDED * (1 + size // _PAGES)
        rows = size // row
        if rows > 1:
            if size > _LARGE:
                # Every strip that there is, one word after the other.
                every: np.ndarray = np.ndarray(
                    ((size - _STRIP) // 8 + 1, _STRIP // 8), np.uint64, content, strides=(8, 8)
                )
                words = every[_begins(rows, row)]
            else:
                # Halves of what they are multiplied by: the highest bits count as well.
                words = content[: rows * row].view(np.uint32).reshape(rows, -1)
            # By odd numbers of 64 bits: no difference of one word is lost.
            digest.update(np.einsum('i,ij->j', _factors(rows), words).tobytes())
            content = content[rows * row :][:_FOLDED]
        digest.update(content.data)
    return int.from_bytes(digest.digest(), 'little')


def pipeline_hash(dataset: Any) -> str:
    """Return a hash of how a dataset of repeatable views makes a view.

    That is its seed, its mixing, and the config of what it wraps: pipelines, wrappers and
    their numbers. Where the data lie is not part of it. The number of views is not
    either, since a view does not depend on it.

    Args:
        dataset: A :class:`kd_plugins.views.RepeatableViews`.

    Raises:
        ValueError: If it was given a built dataset, whose config nobody knows.
    """
    return blake2b(pipeline_text(dataset).encode(), digest_size=16).hexdigest()


def pipeline_text(dataset: Any) -> str:
    """Return what :func:`pipeline_hash` is a hash of, as JSON.

    Raises:
        ValueError: As there.
    """
    if dataset.cfg is None:
        raise ValueError(
            'RepeatableViews.dataset is a built dataset, and how it was built is not known: give '
            'its config, so that it can be told whether views were made in the same way.'
        )
    return json.dumps(_canonical(dataset.cfg), sort_keys=True)


def samples_hash(dataset: Any) -> str:
    """Return a hash of a dataset's samples, in their order.

    A sample is what ``get_data_info`` says of it: its file (the name, and that of its
    folder, so that data may be moved), its annotations, its picture if that is in memory.
    Pictures in files are not read. It takes some ten microseconds a sample. A
    dataset that says nothing of its samples counts by their number.

    Args:
        dataset: Any dataset of OpenMMLab, wrapped or not.
    """
    digest = blake2b(str(len(dataset)).encode(), digest_size=16)
    if hasattr(dataset, 'get_data_info'):
        for index in range(len(dataset)):
            digest.update(marshal.dumps(_plain(dataset.get_data_info(index)), 2))
    return digest.hexdigest()


@lru_cache(64)
def _factors(rows: int) -> np.ndarray:
    # No multiples of one number: what is added to two rows and taken from two others would go.
    mixed = np.arange(1, rows + 1, dtype=np.uint64) * _GOLDEN
    mixed = (mixed ^ mixed >> np.uint64(32)) * _GOLDEN
    return mixed ^ mixed >> np.uint64(32) | np.uint64(1)


@lru_cache(64)
def _begins(rows: int, row: int) -> np.ndarray:
    """Return the words that strips begin at: each elsewhere in its piece, so by every column."""
    number = np.arange(rows, dtype=np.uint64)
    places = np.uint64((row - _STRIP) // 8 + 1)
    within = (number * _GOLDEN >> np.uint64(32)) * places >> np.uint64(32)
    return (number * np.uint64(row // 8) + within).astype(np.intp)


@lru_cache(64)
def _form(shape: torch.Size, dtype: torch.dtype) -> bytes:
    return f'{tuple(shape)}{dtype}'.encode()


def _content(tensor: Tensor) -> np.ndarray:
    """Return the bytes of a tensor, in one row; of one in the order of its dimensions, no copy."""
    if tensor.requires_grad or tensor.device.type != 'cpu':
        tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        # numpy has none.
        tensor = tensor.contiguous().view(torch.int16)
    return tensor.numpy().reshape(-1).view(np.uint8)


def _tensors(inputs: Any) -> list[Tensor]:
    if isinstance(inputs, Tensor):
        return [inputs]
    if isinstance(inputs, np.ndarray):
        return [torch.from_numpy(inputs)]
    if isinstance(inputs, Mapping):
        inputs = [inputs[key] for key in sorted(inputs)]
    if isinstance(inputs, Sequence) and not isinstance(inputs, str):
        return [tensor for each in inputs for tensor in _tensors(each)]
    raise TypeError(
        f'a picture of type {type(inputs).__name__} has no hash: end the pipeline with PackInputs '
        'or PackDetInputs, which make tensors.'
    )


def _canonical(value: Any) -> Any:
    """Return a config as what JSON knows, without what says where data lie."""
    if isinstance(value, Mapping):
        return {
            str(key): name_of(each) if key == 'type' else _canonical(each)
            for key, each in value.items()
            if key not in _WHERE
        }
    if isinstance(value, (list, tuple)):
        return [_canonical(each) for each in value]
    if isinstance(value, (np.ndarray, Tensor)):
        return [str(value.dtype), value.tolist()]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return getattr(value, '__qualname__', None) or str(value)


def _plain(value: Any, key: Any = None) -> Any:
    """Return what a dataset says of a sample as what ``marshal`` knows."""
    if isinstance(value, str):
        is_path = isinstance(key, str) and key.endswith(('path', 'filename', 'file_name'))
        return '/'.join(value.replace('\\', '/').split('/')[-2:]) if is_path else value
    if isinstance(value, dict):
        return [(_plain(k), _plain(value[k], k)) for k in sorted(value, key=str)]
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, (np.ndarray, Tensor)):
        array = np.ascontiguousarray(value)
        return str(array.dtype), array.shape, array.tobytes()
    if value is None or type(value) in (bool, int, float, bytes):
        return value
    return value.item() if isinstance(value, np.generic) else repr(value)
