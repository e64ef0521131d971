"""Importing mmpretrain, beside a transformers that its models of text and pictures do not know.

They need transformers 4. Beside 5, which removed names that they import, no module of
``mmpretrain.models`` can be imported, classifiers neither. mmpretrain has placeholders
for environments without transformers; they take the models' places here, too.

The maintained continuation prints of a data format that is not installed, meant for debugging,
on the standard output, where the page of ``tools/check.py --json`` is.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from kd_plugins.compat.loading import wrapped

#: The first release of transformers without what mmpretrain imports.
_TOO_NEW = 5


class MMPretrainFinder(importlib.abc.MetaPathFinder):
    """Finds the module in which mmpretrain looks for transformers, and its datasets."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a spec for those modules, None for every other one."""
        if fullname not in _WRAPPED:
            return None
        return wrapped(fullname, path, target, _WRAPPED[fullname])


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


@contextmanager
def _without_words(module: ModuleType) -> Iterator[None]:
    # print_log without a logger prints whatever the level.
    with redirect_stdout(io.StringIO()):
        yield


_WRAPPED = {
    'mmpretrain.utils.dependency': _without_text,
    'mmpretrain.datasets': _without_words,
}
