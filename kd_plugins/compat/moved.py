"""Modules that have moved: their old names, which users' configs and scripts have, still work."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

#: Old name to new name; the modules below an old name have moved with it.
MOVED = {
    'kd_plugins.storage': 'kd_plugins.files.writing',
    'kd_plugins.checkpoints': 'kd_plugins.files.reading',
    'kd_plugins.export': 'kd_plugins.files.export_student',
    'kd_plugins.scalars': 'kd_plugins.experiments.logs',
    'kd_plugins.preflight': 'kd_plugins.inspect.check',
}


class MovedFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Lets an old name be another name of the module, not a second module."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a spec for old names, None for every other one."""
        moved = '.'.join(fullname.split('.')[:2]) in MOVED
        return importlib.machinery.ModuleSpec(fullname, self) if moved else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """Leave it to Python to make one, which nobody sees."""

    def exec_module(self, module: ModuleType) -> None:
        """Put the module with the new name in the place of that with the old one."""
        package, old, *below = module.__name__.split('.')
        new = '.'.join((MOVED[f'{package}.{old}'], *below))
        sys.modules[module.__name__] = importlib.import_module(new)


def install() -> None:
    """Let old names be imported; calling it twice is fine."""
    if not any(isinstance(finder, MovedFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, MovedFinder())
