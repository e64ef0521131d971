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


def agreements(
    layout: Mapping[str, Any],
    pairs: Sequence[tuple[Sequence[np.ndarray], Sequence[np.ndarray]]],
) -> list[Agreement]:
    """Compare what is live and what is stored of every sample, record by record.

    Args:
        layout: What :func:`kd_plugins.teachers.encoding.encode` gave.
        pairs: Of every sample the arrays of both.
    """
    found = []
    for record, (_, first, last) in layout['forms'].items():
        each = [_of_record(layout, record, pair) for pair in pairs]
        padded = any(stride or beyond for *_, stride, beyond in layout['parts'][first:last])
        found.append(agreement(record, each, padded))
    return found


def _of_record(
    layout: Mapping[str, Any],
    record: str,
    pair: tuple[Sequence[np.ndarray], Sequence[np.ndarray]],
) -> tuple[Sequence[np.ndarray], Sequence[np.ndarray]]:
    """Return what can be compared of one record of a picture that was taken apart twice."""
    _, first, last = layout['forms'][record]
    mine, theirs = (arrays[first:last] for arrays in pair)
    is_listed = any(beyond == LISTED for *_, beyond in layout['parts'][first:last])
    return in_common(mine, theirs) if is_listed else (mine, theirs)


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


def check_alone(
    layout: Mapping[str, Any],
    among_others: Sequence[np.ndarray],
    layout_alone: Mapping[str, Any],
    alone: Sequence[np.ndarray],
) -> None:
    """Refuse what is said of a picture in a batch, and is not said of it without the others.

    Args:
        layout, among_others: What :func:`kd_plugins.teachers.encoding.encode` gives of the
            batch, and the arrays of the picture.
        layout_alone, alone: The same where nothing else is in the batch.

    Raises:
        NotStorableError: Naming the record.
    """
    for record, form in layout['forms'].items():
        if layout_alone['forms'][record] != form or layout_alone['parts'] != layout['parts']:
            raise NotStorableError(
                f'the record {record} has another form for one picture than for a batch'
            )
        for first, second in zip(*_of_record(layout, record, (among_others, alone)), strict=True):
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
