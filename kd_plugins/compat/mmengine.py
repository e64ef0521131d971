"""Reading checkpoints safely wherever mmengine reads one.

mmengine reads checkpoints by ``torch.load``, which runs what a pickle tells it
to: always on torch 2.1, and after one warning in the maintained continuation.
As soon as ``mmengine.runner.checkpoint`` is imported, its loaders read by
:mod:`kd_plugins.files.reading` instead.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_CHECKPOINT = 'mmengine.runner.checkpoint'


class _GuardingLoader(importlib.abc.Loader):
    """Runs a module, then gives it to :func:`kd_plugins.files.reading.install`."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _guard_checkpoints(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class CheckpointFinder(importlib.abc.MetaPathFinder):
    """Finds mmengine's module of checkpoint loaders."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a spec for this module, None for every other one."""
        if fullname != _CHECKPOINT:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _GuardingLoader(spec.loader)
        return spec


def _guard_checkpoints(module: ModuleType) -> None:
    # Late, because it imports torch.
    from kd_plugins.files import reading

    reading.install(module)


def install() -> None:
    """Let checkpoints be read safely; calling it twice is fine."""
    if not any(isinstance(finder, CheckpointFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, CheckpointFinder())
        if _CHECKPOINT in sys.modules:
            _guard_checkpoints(sys.modules[_CHECKPOINT])
