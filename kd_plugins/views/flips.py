"""Flips that are told instead of drawn, so that two views show both."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

from mmcv.transforms import RandomFlip


@contextmanager
def paired_flips(dataset: Any, seed: int, index: int, view: int) -> Iterator[None]:
    """Let a dataset flip one of the views 2 m and 2 m + 1 of a sample.

    Which one it is has probability 1/2, so that a view has the law that it had, and an
    epoch's pictures are not all flipped. That is for a ``RandomFlip`` with probability 0.5 and one
    direction which every sample passes through once; others draw.
    """
    flips = [flip for flip in _flips(dataset) if flip.prob == 0.5]
    if not flips:
        yield
        return
    first = blake2b(struct.pack('<3q', seed, index, view // 2), digest_size=1, person=b'flip')
    is_flipped = (first.digest()[0] + view) % 2 == 1
    for flip in flips:
        flip.prob = float(is_flipped)
    try:
        yield
    finally:
        for flip in flips:
            flip.prob = 0.5


def _flips(dataset: Any) -> list[RandomFlip]:
    """Return the flips that samples of a dataset pass through once."""
    attributes = getattr(dataset, '__dict__', {})
    if 'pipeline' not in attributes:
        inner = [*(attributes.get('datasets') or ()), attributes.get('dataset')]
        return [flip for each in inner if each is not None for flip in _flips(each)]
    pipeline = attributes['pipeline']
    found = [x for x in getattr(pipeline, 'transforms', pipeline) if isinstance(x, RandomFlip)]
    # Of two flips each would undo the other.
    return found if len(found) == 1 and isinstance(found[0].direction, str) else []
