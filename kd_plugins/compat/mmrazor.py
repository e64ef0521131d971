"""Importing mmrazor 1.0.0, its last release, on the stacks that kd_plugins supports.

Two things keep it from being imported:

* ``mmrazor.structures.quantization`` builds tables from internals of
  ``torch.ao.quantization`` that torch 2.0 removed. Distillation needs none of
  it, so an inert stand-in takes the place of that sub-package.
* ``mmrazor/__init__.py`` asserts ``mmcv <= 2.1.0``. The parts that
  distillation uses run on later releases, so the assertion is shown 2.1.0,
  and nothing else ever sees that number.

Its validation loop for a student and its teacher is replaced as well: it calls
``before_val_epoch`` twice and ``after_val_epoch`` once, so that hooks which
exchange weights for a validation, as EMA's does, leave them exchanged, and the
training goes on from averaged weights.

All this happens when, and only if, something imports mmrazor after kd_plugins.
Where mmrazor can be imported unaided, because torch is older than 2.0, nothing
is replaced.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from types import ModuleType
from typing import Any

from kd_plugins.compat.loading import complete, run_within

#: The newest mmcv that mmrazor 1.0.0 says it works with.
MMRAZOR_NEWEST_MMCV = '2.1.0'

_QUANTIZATION = 'mmrazor.structures.quantization'


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


class QuantizationFinder(importlib.abc.MetaPathFinder):
    """Finds stand-ins for the sub-package that cannot be imported."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a spec for these, None for every other module."""
        if fullname == _QUANTIZATION or fullname.startswith(_QUANTIZATION + '.'):
            return importlib.machinery.ModuleSpec(fullname, _StandInLoader(), is_package=True)
        return None


@contextmanager
def _accepted_mmcv_version(module: ModuleType) -> Iterator[None]:
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


def _one_validation(module: ModuleType) -> None:
    """Give the loop of student and teacher another ``run``."""
    module.SingleTeacherDistillValLoop.run = _validate_both  # type: ignore[attr-defined]


def _validate_both(loop: Any) -> dict[str, float]:
    """Validate the student, then the teacher, as one validation.

    Returns:
        The student's metrics, and the teacher's as ``teacher.*``.
    """
    runner, samples = loop.runner, len(loop.dataloader.dataset)
    runner.call_hook('before_val')
    runner.call_hook('before_val_epoch')
    runner.model.eval()
    for i, batch in enumerate(loop.dataloader):
        loop.run_iter(i, batch)
    metrics = loop.evaluator.evaluate(samples)
    for i, batch in enumerate(loop.dataloader):
        loop.run_iter_teacher(i, batch)
    taught = loop.evaluator.evaluate(samples)
    metrics.update({f'teacher.{name}': value for name, value in taught.items()})
    runner.call_hook('after_val_epoch', metrics=metrics)
    runner.call_hook('after_val')
    return metrics


def needs_stand_in() -> bool:
    """Whether mmrazor cannot be imported unaided on the installed torch."""
    return int(version('torch').split('.', maxsplit=1)[0]) >= 2


def install() -> None:
    """Let mmrazor be imported; calling it twice is fine."""
    if 'mmrazor' in sys.modules or not needs_stand_in():
        return
    run_within({'mmrazor': _accepted_mmcv_version})
    complete({'mmrazor.engine.runner.distill_val_loop': _one_validation})
    if not any(isinstance(finder, QuantizationFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, QuantizationFinder())
