"""Flips that are told instead of drawn, so that two views show both."""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import Any

from mmcv.transforms import RandomFlip


class PairedFlips:
    """Lets a dataset flip one of the views 2 m and 2 m + 1 of a sample.

    Which one it is has probability 1/2, so that a view has the law that it had, and an
    epoch's pictures are not all flipped. That is for a ``RandomFlip`` with probability 0.5 and one
    direction which every sample passes through once; others draw.

    Args:
        dataset: Whose flips are told; while this is entered, so that all draw again after.
        seed: Of the augmentation.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self._flips = [flip for flip in _flips(dataset) if flip.prob == 0.5]
        self._seed = seed

    def __enter__(self) -> PairedFlips:
        return self

    def __exit__(self, *_: object) -> None:
        self.tell(0.5)

    def of(self, index: int, view: int) -> float:
        """Return the probability, 0 or 1, with which a view of a sample is flipped."""
        if not self._flips:
            return 0.5
        pair = struct.pack('<3q', self._seed, index, view // 2)
        first = blake2b(pair, digest_size=1, person=b'flip').digest()[0]
        return float((first + view) % 2)

    def tell(self, prob: float) -> None:
        """Let what is made next be flipped with this probability."""
        for flip in self._flips:
            flip.prob = prob


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
