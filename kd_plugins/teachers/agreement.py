"""How far what is stored is from what a teacher says now."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from kd_plugins.teachers.heads import in_common
from kd_plugins.teachers.parts import LISTED, NotStorableError

#: How far a live answer may be from the stored one, as a share of the largest number of it:
#: another batch, another device, half precision.
AGREES = 0.05


class Agreement(NamedTuple):
    """How far stored answers to a batch are from live ones.

    Args:
        record: What is recorded.
        samples: How many pictures of the batch are stored.
        difference: The largest one of any number.
        largest: The largest live number.
        kl: For logits, the mean divergence of the stored softmax from the live one, in
            nats.
        padded: Whether it also depends on how much the batch was padded.
    """

    record: str
    samples: int
    difference: float
    largest: float
    kl: float | None
    padded: bool


#: Of one picture the arrays of every record, by its name.
Records = Mapping[str, Sequence[np.ndarray]]


def agreements(
    layout: Mapping[str, Any], pairs: Sequence[tuple[Records, Records]]
) -> list[Agreement]:
    """Compare what is live and what is stored of every sample, record by record.

    Args:
        layout: What :func:`kd_plugins.teachers.encoding.encode` gave of what is live.
        pairs: Of every sample the records of both.
    """
    found = []
    for record, (_, first, last) in layout['forms'].items():
        each = [_comparable(layout, record, *pair) for pair in pairs]
        padded = any(stride or beyond for *_, stride, beyond in layout['parts'][first:last])
        found.append(agreement(record, each, padded))
    return found


def _comparable(
    layout: Mapping[str, Any], record: str, live: Records, stored: Records
) -> tuple[Sequence[np.ndarray], Sequence[np.ndarray]]:
    """Return the parts of one record that both have."""
    _, first, last = layout['forms'][record]
    is_listed = any(beyond == LISTED for *_, beyond in layout['parts'][first:last])
    pair = live[record], stored[record]
    return in_common(*pair) if is_listed else pair


def agreement(
    record: str,
    pairs: Sequence[tuple[Sequence[np.ndarray], Sequence[np.ndarray]]],
    padded: bool,
) -> Agreement:
    """Compare the live and the stored parts of a record of every sample."""
    each = [
        (live, stored)
        for parts in pairs
        for live, stored in zip(*parts, strict=True)
        if live.dtype.kind == 'f'
    ]
    kl = None
    if pairs and all(len(live) == 1 and live[0].ndim == 1 for live, _ in pairs):
        live, stored = (
            torch.from_numpy(np.stack(x).astype(np.float64)).log_softmax(dim=1)
            for x in zip(*each, strict=True)
        )
        kl = float((live.exp() * (live - stored)).sum(dim=1).mean())
    return Agreement(
        record,
        len(pairs),
        max((apart(live, stored) for live, stored in each), default=0.0),
        max((float(np.abs(live).max(initial=0)) for live, _ in each), default=0.0),
        kl,
        padded,
    )


def check_alone(layout: Mapping[str, Any], among_others: Records, alone: Records) -> None:
    """Refuse what is said of a picture in a batch, and is not said of it without the others.

    Args:
        layout: What :func:`kd_plugins.teachers.encoding.encode` gives of the batch.
        among_others: The records of the picture.
        alone: Those where nothing else is in the batch.

    Raises:
        NotStorableError: Naming the record.
    """
    for record in layout['forms']:
        mine, theirs = _comparable(layout, record, among_others, alone)
        if len(mine) != len(theirs):
            raise NotStorableError(f'the record {record} is of other calls in another batch')
        for first, second in zip(mine, theirs, strict=True):
            if first.dtype.kind != 'f':
                continue
            moved = math.inf
            if first.shape == second.shape:
                moved = float(np.linalg.norm(first.astype(np.float64) - second))
            # Of all numbers together: half precision moves single ones by much.
            if moved > AGREES * np.linalg.norm(first.astype(np.float64)):
                raise NotStorableError(
                    f'the record {record} of a picture is another one without the other pictures '
                    f'of its batch (a difference of {moved:.3g}, the norm of all its numbers)'
                )


def apart(first: np.ndarray, second: np.ndarray) -> float:
    """Return the largest difference of two arrays; infinite between shapes."""
    if first.shape != second.shape:
        return np.inf
    return float(np.abs(first.astype(np.float32) - second).max(initial=0))
