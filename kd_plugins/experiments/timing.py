"""Measuring time, and saying it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch


def now() -> float:
    """Return the time in seconds at which the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def median(seconds: Sequence[float], warm_up: int = 0) -> float:
    """Return the median of durations without the first ones.

    Args:
        seconds: One duration a step, in order.
        warm_up: How many at the start do not count; where there are no more
            than these, the last one counts alone.

    Raises:
        ValueError: If there is no duration.
    """
    if not seconds:
        raise ValueError('seconds=[] has no duration: measure at least one step.')
    return statistics.median(seconds[min(warm_up, len(seconds) - 1) :])


def duration(seconds: float) -> str:
    """Say a duration: ``0.42 s``, ``4.2 s``, ``42 s``, ``5 min``, ``3.1 h`` or ``2.5 d``."""
    if seconds < 1:
        return f'{seconds:.2g} s'
    if seconds < 10:
        return f'{seconds:.1f} s'
    if seconds < 120:
        return f'{seconds:.0f} s'
    if seconds < 7200:
        return f'{seconds / 60:.0f} min'
    if seconds < 172800:
        return f'{seconds / 3600:.1f} h'
    return f'{seconds / 86400:.1f} d'
