"""Importing mmpretrain beside a transformers that its models of text and pictures do not know.

They need transformers 4. Beside 5, which removed names that they import, no module of
``mmpretrain.models`` can be imported, classifiers neither. mmpretrain has placeholders
for environments without transformers; they take the models' places here, too.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from kd_plugins.compat.loading import wrapped

_DEPENDENCY = 'mmpretrain.utils.dependency'
#: The first release of transformers without what mmpretrain imports.
_TOO_NEW = 5


class MMPretrainFinder(importlib.abc.MetaPathFinder):
    """Finds the module in which mmpretrain looks for transformers."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a spec for that module, None for every other one."""
        return wrapped(fullname, path, target, _without_text) if fullname == _DEPENDENCY else None


def install() -> None:
    """Let mmpretrain be imported beside any transformers; calling it twice is fine."""
    if not any(isinstance(finder, MMPretrainFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, MMPretrainFinder())


@contextmanager
def _without_text(module: ModuleType) -> Iterator[None]:
    yield
    try:
        newest = int(version('transformers').split('.')[0])
    except PackageNotFoundError:
        return
    if newest >= _TOO_NEW:
        vars(module)['WITH_MULTIMODAL'] = False
