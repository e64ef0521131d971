"""Doing something around the import of an upstream module."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

#: Makes of a module what its code is run within.
Around = Callable[[ModuleType], AbstractContextManager]
#: Changes a module that has been imported.
Change = Callable[[ModuleType], None]


def run_within(arounds: Mapping[str, Around]) -> None:
    """Run modules within something when they are imported; calling it twice is fine.

    Args:
        arounds: What each is run within, by its whole name.

    Raises:
        ValueError: If another thing is around a module already.
    """
    for name, around in arounds.items():
        if _FINDER.arounds.setdefault(name, around) != around:
            raise ValueError(f'the import of {name} is changed in two ways: make one of them.')
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


def complete(changes: Mapping[str, Change]) -> None:
    """Change modules as soon as they are imported, or now; calling it twice is fine.

    Args:
        changes: What changes each, by its whole name.

    Raises:
        ValueError: As :func:`run_within`.
    """
    new = {name: change for name, change in changes.items() if name not in _FINDER.arounds}
    run_within({name: _Then(change) for name, change in changes.items()})
    for name in new.keys() & sys.modules.keys():
        new[name](sys.modules[name])


@dataclass(frozen=True)
class _Then:
    change: Change

    @contextmanager
    def __call__(self, module: ModuleType) -> Iterator[None]:
        yield
        self.change(module)


class UpstreamFinder(importlib.abc.MetaPathFinder):
    """Finds the modules of upstream packages that something is done around.

    Attributes:
        arounds: What each is run within, by its whole name.
    """

    def __init__(self) -> None:
        self.arounds: dict[str, Around] = {}

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a spec for these modules, None for every other one and where there is none."""
        if fullname not in self.arounds:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = WrappingLoader(spec.loader, self.arounds[fullname])
        return spec


_FINDER = UpstreamFinder()


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
