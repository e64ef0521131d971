"""Random numbers of a sample as a function of what is asked for."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import numpy as np
import torch


@contextmanager
def kept_random_states() -> Iterator[None]:
    """Run a block that may seed python's, numpy's and torch's generators; put them back after.

    Only torch's generator of the CPU: pictures are augmented there, and seeding the
    accelerators' would change what the networks draw.
    """
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])


def seed_view(seed: int, index: int, view: int) -> None:
    """Seed the three generators, each with other bits of a hash of the three numbers."""
    digest = blake2b(struct.pack('<3q', seed, index, view), digest_size=20).digest()
    for_torch, for_python, for_numpy = struct.unpack('<qQI', digest)
    torch.default_generator.manual_seed(for_torch)
    random.seed(for_python)
    # Legacy seeding with one number: ten times faster than with several.
    np.random.seed(for_numpy)
