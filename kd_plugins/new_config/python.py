"""Values as the Python of a config file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_WIDTH = 100


class Code(str):
    """Python that is written as it is."""


def statement(name: str, value: Any) -> str:
    """Return the line or lines that give a variable a value."""
    return f'{name} = {as_python(value, 0, len(name) + 3)}\n'


def as_python(value: Any, indent: int = 0, taken: int = 0) -> str:
    """Return a value as Python, on one line if it fits, else with a line for each item.

    Args:
        value: Mappings, lists and what ``repr`` writes; :class:`Code` stays as it is.
        indent: By how many columns the line is indented on which it begins.
        taken: How many columns of that line are taken.
    """
    if isinstance(value, Code):
        return str(value)
    if isinstance(value, Mapping):
        if all(str(key).isidentifier() for key in value):
            opening, closing = 'dict(', ')'
            items = [(f'{key}=', item) for key, item in value.items()]
        else:
            opening, closing = '{', '}'
            items = [(f'{key!r}: ', item) for key, item in value.items()]
    elif isinstance(value, list):
        opening, closing = '[', ']'
        items = [('', item) for item in value]
    elif isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    else:
        return repr(value)
    line = opening + ', '.join(key + as_python(item) for key, item in items) + closing
    # A comma follows.
    if '\n' not in line and taken + len(line) < _WIDTH:
        return line
    inner = indent + 4
    lines = [
        f'{" " * inner}{key}{as_python(item, inner, inner + len(key))},\n' for key, item in items
    ]
    return f'{opening}\n{"".join(lines)}{" " * indent}{closing}'
