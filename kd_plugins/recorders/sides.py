"""Saying what both networks are."""

from __future__ import annotations

from torch import nn


def beside(side: str, other: nn.Module | None) -> str:
    """Return what stands after the name of a network, to name the other one.

    Args:
        side: 'student' or 'teacher', which one it is.
        other: The other network, None if there is none.
    """
    if other is None:
        return ''
    return f'; the {"student" if side == "teacher" else "teacher"} is a {type(other).__name__}'
