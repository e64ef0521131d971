"""Which classes of a teacher are which of the student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ClassMap = Sequence[int | None] | Mapping[str, Sequence[str]]


def class_order(class_map: Any, key: str = 'class_map') -> list[int]:
    """Return for every class of the student the index of the teacher's.

    Args:
        class_map: For each class of the teacher the index of the student's, or
            None; or ``dict(teacher=names, student=names)``.
        key: What the user calls it, for messages.

    Raises:
        ValueError: If a class of the student has no counterpart, or two.
    """
    if isinstance(class_map, Mapping):
        if set(class_map) != {'teacher', 'student'} or any(
            isinstance(names, str) or len(set(names)) != len(names) for names in class_map.values()
        ):
            raise ValueError(
                f'{key}={dict(class_map)!r} is wrong: give dict(teacher=[...], student=[...]), the '
                'names of the classes of either side in order, each of them once.'
            )
        teacher, student = list(class_map['teacher']), list(class_map['student'])
        lacking = [name for name in student if name not in teacher]
        if lacking:
            raise ValueError(
                f'{key}: the teacher does not know the classes {lacking} of the student, only '
                f'{teacher}: give a teacher that knows them, or the names that it calls them by.'
            )
        return [teacher.index(name) for name in student]
    given = [index for index in class_map if index is not None]
    if sorted(given) != list(range(len(given))):
        raise ValueError(
            f'{key}={list(class_map)!r} is wrong: give for each class of the teacher the index of '
            "the student's, or None, so that each of the student's, counted from 0, stands there "
            'once.'
        )
    return [list(class_map).index(index) for index in range(len(given))]
