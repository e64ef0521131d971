"""Hearing what a method of one module, or another object, is called with and returns."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

#: Is called with the arguments, the named arguments and what the method returned.
Heard = Callable[[tuple[Any, ...], Mapping[str, Any], Any], None]


def listen(module: Any, name: str, heard: Heard) -> None:
    """Have a function called after every call of a method of this one module.

    Until :func:`leave`; nothing stays in the method's place for longer: a copy
    of the module, such as EMA's, would go on calling the method of this one.
    """
    method = getattr(module, name)

    @functools.wraps(method)
    def listening(*args: Any, **kwargs: Any) -> Any:
        returned = method(*args, **kwargs)
        heard(args, kwargs, returned)
        return returned

    listening.before = module.__dict__.get(name)  # type: ignore[attr-defined]
    module.__dict__[name] = listening


def leave(module: Any, name: str) -> None:
    """Put the method back."""
    before = module.__dict__.pop(name).before
    if before is not None:
        module.__dict__[name] = before
