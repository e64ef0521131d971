"""How many classes a config's network tells apart, and the same network for others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kd_plugins.registry import name_of

_KEY = 'num_classes'


def classes_in_cfg(model: Mapping[str, Any]) -> int | None:
    """Return the classes that a model config says, None where it says none.

    The head's count, then its loss's, then whatever comes first: VGG and LeNet have
    their classifier in the backbone.
    """
    said = dict(_said(model))
    for path in (('head', _KEY), ('head', 'loss', _KEY)):
        if path in said:
            return said[path]
    return next(iter(said.values()), None)


def of_classes(model: Mapping[str, Any], classes: int, option: str) -> dict[str, Any]:
    """Return what to change in a model config for another number of classes.

    Args:
        model: The config.
        classes: The number.
        option: What the user calls the network.

    Raises:
        ValueError: If the config says its classes nowhere.
    """
    before = classes_in_cfg(model)
    if before is None:
        raise ValueError(
            f'--data: the model of {option}, a {name_of(model.get("type"))}, says no {_KEY} that '
            'could be set: give a config whose head or backbone does.'
        )
    changes: dict[str, Any] = {}
    for (*path, last), count in _said(model):
        if count != before:
            continue
        inner = changes
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = classes
    return changes


def _said(cfg: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple, int]]:
    """Yield where in nested dicts a number of classes stands, and it."""
    for key, value in cfg.items():
        if key == _KEY and isinstance(value, int):
            yield (*path, key), value
        elif isinstance(value, Mapping):
            yield from _said(value, (*path, key))
