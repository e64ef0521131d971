"""Checks of single settings, for whoever reads a config, and what errors say.

Each returns the value if it is right, and otherwise raises a ``ValueError`` that
names the key, the value and what would be right.
"""

from __future__ import annotations

import linecache
import math
import re
from collections.abc import Iterable
from pathlib import Path
from traceback import walk_tb
from typing import Any, TypeGuard

#: Errors that are faults of a program, whatever they say.
_FAULTS = (LookupError, AttributeError, AssertionError, NotImplementedError)
#: What the system says of a file, or of a full disk.
_OF_FILES = re.compile(r"\[Errno \d+\] (.*: '.*'|No space left on device|Disk quota exceeded)$")
#: What mmcv asserts of a picture.
_OF_PICTURES = re.compile(r'failed to load image: (.*)')
#: What gloo says where another process of a training has ended.
_OF_PEERS = re.compile(r'gloo.*Connection (closed|reset) by peer', re.S)
#: How torch passes on what a worker of a loader has raised, traceback and all.
_OF_WORKER = re.compile(
    r'Caught \w+ in .*\nOriginal Traceback (?:.*\n)*'
    r'  File "(?P<path>.*)", line (?P<line>\d+), in .*\n(?:    .*\n)*[\w.]+: (?P<said>[^\0]*)'
)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def refuse(key: str, value: Any, right: str) -> ValueError:
    """Return the error that tells what is wrong.

    Args:
        key: What the user calls the setting.
        value: What it is set to.
        right: What would be right; it goes on after "give".
    """
    return ValueError(f'{key}={value!r} is wrong: give {right}.')


def said(error: BaseException) -> str:
    """Return an error's message in one line, without addresses of objects."""
    return re.sub(r' at 0x[0-9a-f]+', '', ' '.join(str(error).split())) or 'no message'


def sentence_of(error: BaseException) -> str | None:
    """Return what an error says where that is all that a user needs, and None of any other.

    It is where a line of this package raises it, or the system says it of a file, or mmcv of
    a picture, or it is that another process has ended. Of all others, which may be anybody's
    fault, the traceback is needed. What a worker of a data loader has raised counts as there.
    """
    found = _OF_WORKER.match(str(error))
    if found:
        path, line, text = found['path'], int(found['line']), found['said'].strip()
    else:
        frame, line = [*walk_tb(error.__traceback__)][-1] if error.__traceback__ else (None, 0)
        path, text = frame.f_code.co_filename if frame else '', str(error)
    if isinstance(error, OSError) and _OF_FILES.search(text):
        return text
    unread = isinstance(error, AssertionError) and _OF_PICTURES.fullmatch(text)
    if unread:
        return f'the picture {unread[1]!r} cannot be read: replace it, or take it out of the data.'
    if _OF_PEERS.search(text):
        return 'another process of this training has ended, and says why itself.'
    ours = Path(__file__).parent in Path(path).parents
    raised = linecache.getline(path, line).lstrip().startswith('raise ')
    return text if ours and raised and text and not isinstance(error, _FAULTS) else None


def mixed_views(what: str) -> ValueError:
    """Return the error that a preprocessor would mix pictures that are shown in two views.

    Args:
        what: What shows or reads both views.
    """
    return ValueError(
        'data_preprocessor.batch_augments (or train_cfg.augments of the student) would mix '
        f'pictures that come in two views ({what}), one of which labels the other: leave one of '
        'them out.'
    )


def whole_number(key: str, value: Any, least: int = 1, right: str | None = None) -> int:
    """Return a whole number that is at least ``least``.

    Args:
        key, value: As in :func:`refuse`.
        least: The least number that is accepted.
        right: As in :func:`refuse`; by default it says "whole number" and ``least``.

    Raises:
        ValueError: If it is none, or smaller.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise refuse(key, value, right or f'a whole number, at least {least}')
    return value


def number(
    key: str,
    value: Any,
    right: str = 'a finite number',
    above: float = -math.inf,
    least: float = -math.inf,
) -> float:
    """Return a finite number within bounds, as a float.

    Args:
        key, value, right: As in :func:`refuse`.
        above: It must be greater than this.
        least: It must be at least this.

    Raises:
        ValueError: If it is none, not finite, or out of bounds.
    """
    if not is_number(value) or value <= above or value < least:
        raise refuse(key, value, right)
    return float(value)


def flag(key: str, value: Any) -> bool:
    """Return True or False; texts and numbers are neither.

    Args:
        key, value: As in :func:`refuse`.

    Raises:
        ValueError: If it is another value.
    """
    if not isinstance(value, bool):
        raise refuse(key, value, 'True or False')
    return value


def one_of(key: str, value: Any, known: Iterable[Any], also: str = '') -> Any:
    """Return a value that is one of those that are known.

    Args:
        key, value: As in :func:`refuse`.
        known: What is accepted.
        also: What else can be given, after a comma.

    Raises:
        ValueError: If it is another one.
    """
    known = tuple(known)
    if value not in known:
        raise refuse(key, value, ' or '.join(map(repr, known)) + (also and f', {also}'))
    return value
