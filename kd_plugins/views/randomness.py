"""Random numbers of a sample as a function of what is asked for."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import get_worker_info


@contextmanager
def kept_random_states() -> Iterator[None]:
    """Run a block that may seed python's, numpy's and torch's generators; put them back after.

    In a worker of a loader nobody else draws but what collates a batch: there they are seeded
    with what torch's and python's drew before the block, which costs a tenth.

    Only torch's generator of the CPU: pictures are augmented there, and seeding the
    accelerators' would change what the networks draw.
    """
    if get_worker_info() is not None:
        # Numpy's own 32 bits would lead back to where they were after some 50,000 batches.
        after = Seeds(int(torch.randint(2**62, ())), random.getrandbits(64), random.getrandbits(32))
        try:
            yield
        finally:
            seed_all(after)
        return
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])


class Seeds(NamedTuple):
    """Of torch's, python's and numpy's generator, in this order."""

    torch: int
    python: int
    numpy: int


def seeds_of(seed: int, index: int, view: int) -> Seeds:
    """Return seeds of a view, each other bits of a hash of the three numbers."""
    digest = blake2b(struct.pack('<3q', seed, index, view), digest_size=20).digest()
    return Seeds(*struct.unpack('<qQI', digest))


def seed_all(seeds: Seeds) -> None:
    """Seed the three generators."""
    torch.default_generator.manual_seed(seeds[0])
    random.seed(seeds[1])
    # Legacy seeding with one number: ten times faster than with several.
    np.random.seed(seeds[2])
