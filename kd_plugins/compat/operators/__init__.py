"""mmcv's operators without a compiler, for an mmcv that was installed without compiled ones.

Every Python part of mmcv is there without them (``mmcv-lite``, ``onedl-mmcv-lite``);
what is missing is the extension module ``mmcv._ext``, in which ``mmcv.ops`` looks
functions up by name. :func:`install` lets ``mmcv._ext`` be found where, and only
where, there is none: a module whose functions are those of
:mod:`kd_plugins.compat.operators.extension`, which build on torch's and
torchvision's own operators. A compiled extension that does not load is an
:class:`ImportError` that says what to install.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

from kd_plugins.compat.loading import RefusingLoader

EXTENSION = 'mmcv._ext'

#: How to get the compiled operators.
COMPILED = (
    '`make setup OPS=compiled` in a checkout of kd_plugins, or `pip install mmcv` '
    '(`pip install onedl-mmcv` beside onedl packages) after `pip uninstall` of the installed one'
)


class OperatorsFinder(importlib.abc.MetaPathFinder):
    """Finds ``mmcv._ext`` where mmcv has none, and explains one that does not load."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a spec for the extension, None for every other module."""
        if fullname != EXTENSION:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None:
            return importlib.machinery.ModuleSpec(fullname, _StandInLoader())
        if spec.loader is not None:
            spec.loader = RefusingLoader(spec.loader, _broken)
        return spec


class _StandIn(ModuleType):
    """The module that takes the place of ``mmcv._ext``."""

    def __getattr__(self, name: str) -> object:
        if name.startswith('__'):
            raise AttributeError(f'{self.__name__} has no attribute {name}')
        return _missing(name)


class _StandInLoader(importlib.abc.Loader):
    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _StandIn(spec.name, 'A stand-in, see kd_plugins.compat.operators.')

    def exec_module(self, module: ModuleType) -> None:
        # Late, because it imports torch and torchvision.
        extension = importlib.import_module(f'{__name__}.extension')
        for name in extension.__all__:
            setattr(module, name, getattr(extension, name))


def _missing(name: str) -> object:
    def operator(*args: object, **kwargs: object) -> None:
        raise NotImplementedError(
            f"mmcv's operator {name} is not among those that kd_plugins replaces where mmcv "
            f'has no compiled operators: {COMPILED}.'
        )

    operator.__name__ = name
    return operator


def _broken(error: ImportError) -> ImportError:
    import torch

    return ImportError(
        f"mmcv's compiled operators do not load beside torch {torch.__version__}, because they "
        'were compiled for another torch or Python: install an mmcv that was compiled for '
        'these, or one without compiled operators (`pip install mmcv-lite`, `onedl-mmcv-lite` '
        'beside onedl packages), whose operators kd_plugins replaces; '
        f'the error was: {error}',
        name=EXTENSION,
        path=error.path,
    )


def install() -> None:
    """Let ``mmcv._ext`` be found everywhere; calling it twice is fine."""
    if not any(isinstance(finder, OperatorsFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, OperatorsFinder())


def in_use() -> str:
    """Say in a few words which operators ``mmcv.ops`` works with; raises what they raise."""
    extension = importlib.import_module(EXTENSION)
    if isinstance(extension, _StandIn):
        return "kd_plugins' (mmcv has no compiled ones)"
    return "mmcv's, compiled"
