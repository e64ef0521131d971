"""Doing something around the import of an upstream module."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

#: Makes of a module what its code is run within.
Around = Callable[[ModuleType], AbstractContextManager]


class WrappingLoader(importlib.abc.Loader):
    """Runs a module by its own loader, within something.

    Args:
        loader: The module's own.
        around: What it is run within.
    """

    def __init__(self, loader: importlib.abc.Loader, around: Around) -> None:
        self._loader = loader
        self._around = around

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        with self._around(module):
            self._loader.exec_module(module)

    def __getattr__(self, name: str) -> Any:
        # importlib.resources and inspect ask the loader for more.
        return getattr(self._loader, name)


class RefusingLoader(importlib.abc.Loader):
    """Loads a module by its own loader, and explains why that was not possible.

    Args:
        loader: The module's own.
        explain: Makes of the loader's error the one to raise.
    """

    def __init__(
        self, loader: importlib.abc.Loader, explain: Callable[[ImportError], ImportError]
    ) -> None:
        self._loader = loader
        self._explain = explain

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        # An extension module's library is loaded here.
        try:
            return self._loader.create_module(spec)
        except ImportError as error:
            raise self._explain(error) from error

    def exec_module(self, module: ModuleType) -> None:
        try:
            self._loader.exec_module(module)
        except ImportError as error:
            raise self._explain(error) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def wrapped(
    name: str, path: Sequence[str] | None, target: ModuleType | None, around: Around
) -> importlib.machinery.ModuleSpec | None:
    """Return the spec of a module that is to be run within something, None if there is none."""
    spec = importlib.machinery.PathFinder.find_spec(name, path, target)
    if spec is not None and spec.loader is not None:
        spec.loader = WrappingLoader(spec.loader, around)
    return spec
