"""What upstream versions need, in one place.

mmrazor 1.0.0 is the last release of mmrazor. Two things keep it from being
imported on the stacks that kd_plugins supports:

* ``mmrazor.structures.quantization`` builds tables from internals of
  ``torch.ao.quantization`` that torch 2.0 removed. Distillation needs none of
  it, so an inert stand-in takes the place of that sub-package.
* ``mmrazor/__init__.py`` asserts ``mmcv <= 2.1.0``. The parts that
  distillation uses run on later releases, so the assertion is shown 2.1.0,
  and nothing else ever sees that number.

Both happen when, and only if, something imports mmrazor after kd_plugins
(:func:`install` adds one finder to :data:`sys.meta_path`). Where mmrazor can
be imported unaided, because torch is older than 2.0, nothing is replaced.

mmcv without compiled operators, which is enough for classification, warns at
every import of what classification does not use; that warning is silenced.

mmengine reads checkpoints by ``torch.load``, which runs what a pickle tells it
to: always on torch 2.1, and after one warning in the maintained continuation.
As soon as ``mmengine.runner.checkpoint`` is imported, its loaders go through
the list of :mod:`kd_plugins.checkpoints` instead.

Two settings of later torch releases are put back where they are needed:
:func:`onnx_exporter`, :func:`allow_two_backward_passes`.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from types import ModuleType
from typing import Any

#: The newest mmcv that mmrazor 1.0.0 says it works with.
MMRAZOR_NEWEST_MMCV = '2.1.0'

_QUANTIZATION = 'mmrazor.structures.quantization'
_CHECKPOINT = 'mmengine.runner.checkpoint'


class _Inert:
    """Stands for any class or function of the replaced sub-package.

    Upstream modules subclass it, decorate with it and look up attributes while
    they are imported; using it for real is an error that says why.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError(
            'mmrazor 1.0.0 cannot quantize on torch 2.0 or later, so '
            f'kd_plugins replaced {_QUANTIZATION} by a stand-in; '
            'use an environment with torch 1.13 to quantize.'
        )


class _StandInModule(ModuleType):
    """A module, and a package, in which every public name is :class:`_Inert`."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(f'{self.__name__} has no attribute {name}')
        return _Inert


class _StandInLoader(importlib.abc.Loader):
    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _StandInModule(spec.name, 'An inert stand-in, see kd_plugins.compat.')

    def exec_module(self, module: ModuleType) -> None:
        # ``from ... import *`` must find nothing to re-export.
        module.__all__ = []  # type: ignore[attr-defined]


class _QuietLoader(importlib.abc.Loader):
    """Runs mmrazor's own ``__init__`` as if mmcv were one that it accepts."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        with _accepted_mmcv_version():
            self._loader.exec_module(module)

    def __getattr__(self, name: str) -> Any:
        # importlib.resources and inspect ask the loader for more.
        return getattr(self._loader, name)


class MMRazorFinder(importlib.abc.MetaPathFinder):
    """Finds mmrazor's top package and the sub-package that needs a stand-in."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a spec for these two, None for every other module."""
        if fullname == 'mmrazor':
            spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _QuietLoader(spec.loader)
            return spec
        if fullname == _QUANTIZATION or fullname.startswith(_QUANTIZATION + '.'):
            return importlib.machinery.ModuleSpec(fullname, _StandInLoader(), is_package=True)
        return None


@contextmanager
def _accepted_mmcv_version() -> Iterator[None]:
    """Show ``mmcv.__version__`` as at most :data:`MMRAZOR_NEWEST_MMCV`."""
    import mmcv
    from mmengine.utils import digit_version

    original = mmcv.__version__
    if digit_version(original) > digit_version(MMRAZOR_NEWEST_MMCV):
        mmcv.__version__ = MMRAZOR_NEWEST_MMCV
    try:
        yield
    finally:
        mmcv.__version__ = original


class _GuardingLoader(importlib.abc.Loader):
    """Runs a module, then gives it to :func:`kd_plugins.checkpoints.install`."""

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
    from kd_plugins import checkpoints

    checkpoints.install(module)


def needs_stand_in() -> bool:
    """Whether mmrazor cannot be imported unaided on the installed torch."""
    return int(version('torch').split('.', maxsplit=1)[0]) >= 2


def install() -> None:
    """Let mmrazor be imported and checkpoints be read safely; calling it twice is fine."""
    warnings.filterwarnings('ignore', 'Fail to import ``MultiScaleDeformableAttention``')
    if not any(isinstance(finder, CheckpointFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, CheckpointFinder())
        if _CHECKPOINT in sys.modules:
            _guard_checkpoints(sys.modules[_CHECKPOINT])
    if 'mmrazor' in sys.modules or not needs_stand_in():
        return
    if not any(isinstance(finder, MMRazorFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, MMRazorFinder())


def allow_two_backward_passes() -> None:
    """Let compiled code be gone backward through twice, as DOT does.

    Since torch 2.6 what ``torch.compile`` makes reuses memory of the forward pass
    in the first backward pass, and refuses the second one.
    """
    from torch._functorch import config

    if hasattr(config, 'donated_buffer'):
        config.donated_buffer = False


def onnx_exporter() -> dict[str, Any]:
    """Return what makes ``torch.onnx.export`` use the exporter that both stacks have.

    torch 2.9 made another one the default, which needs onnxscript.
    """
    import torch

    parameters = inspect.signature(torch.onnx.export).parameters
    return dict(dynamo=False) if 'dynamo' in parameters else {}
