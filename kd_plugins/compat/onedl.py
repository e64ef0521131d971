"""Importing the datasets of OpenMMLab's maintained continuation without a word.

mmpretrain and mmdet of ``onedl-*`` say, for debugging, that a data format of their own is not
installed; since ``print_log`` without a logger prints whatever the level, it stands on the
standard output, where the page of ``tools/check.py --json`` is.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from types import ModuleType

from kd_plugins.compat.loading import wrapped

_TALKING = ('mmpretrain.datasets', 'mmdet.datasets', 'mmdet.datasets.transforms')


class OneDLFinder(importlib.abc.MetaPathFinder):
    """Finds the modules that print while they are imported."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a spec for those modules, None for every other one."""
        return wrapped(fullname, path, target, _silently) if fullname in _TALKING else None


def install() -> None:
    """Keep what they print to themselves; calling it twice is fine."""
    if not any(isinstance(finder, OneDLFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, OneDLFinder())


@contextmanager
def _silently(module: ModuleType) -> Iterator[None]:
    with redirect_stdout(io.StringIO()):
        yield
