"""mmcv's operators without a compiler, for an mmcv that was installed without compiled ones.

Every Python part of mmcv is there without them (``mmcv-lite``; ``onedl-mmcv`` built
without torch in sight); what is missing is the extension module ``mmcv._ext``, in
which ``mmcv.ops`` looks functions up by name. :func:`install` lets ``mmcv._ext`` be
found where, and only where, there is none: a module whose functions are those of
:mod:`kd_plugins.compat.operators.extension`, which build on torch's and
torchvision's own operators. A compiled extension that does not load is an
:class:`ImportError` that says what to install.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import sys
from collections.abc import Sequence
from types import ModuleType

from kd_plugins.compat.loading import RefusingLoader

EXTENSION = 'mmcv._ext'


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
            f"mmcv's operator {name!r} has no stand-in in kd_plugins: install mmcv with its "
            f'compiled operators ({_how_to_compile()}).'
        )

    operator.__name__ = name
    return operator


def _broken(error: ImportError) -> ImportError:
    import torch

    said = ' '.join(str(error).split())
    return ImportError(
        f'the compiled operators of {_distribution()} were built for another torch or Python and '
        f'do not load with torch {torch.__version__}: install it again for this torch '
        f"({_how_to_compile()}), or without operators, for which kd_plugins' stand-ins are used "
        f'then ({_how_to_do_without()}); it was said: {said}',
        name=EXTENSION,
        path=error.path,
    )


def _distribution() -> str:
    """Return the name that pip knows the installed mmcv by."""
    names = importlib.metadata.packages_distributions().get('mmcv', ['mmcv'])
    return names[0]


def _how_to_compile() -> str:
    name = _distribution().removesuffix('-lite')
    return (
        '`make setup OPS=compiled` in a checkout of kd_plugins, elsewhere '
        f'`pip uninstall {_distribution()}` and `pip install --no-build-isolation {name}`'
    )


def _how_to_do_without() -> str:
    if _distribution().startswith('onedl'):
        # Whose source leaves its operators out where it is built without torch in sight.
        return '`pip install --force-reinstall --no-deps --no-binary onedl-mmcv onedl-mmcv`'
    return f'`pip uninstall {_distribution()}` and `pip install mmcv-lite`'


def install() -> None:
    """Let ``mmcv._ext`` be found everywhere; calling it twice is fine."""
    if not any(isinstance(finder, OperatorsFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, OperatorsFinder())


def in_use() -> str | None:
    """Say in a few words which operators ``mmcv.ops`` works with; None before it is imported."""
    extension = sys.modules.get(EXTENSION)
    if extension is None:
        return None
    return "kd_plugins' stand-ins" if isinstance(extension, _StandIn) else 'compiled'
