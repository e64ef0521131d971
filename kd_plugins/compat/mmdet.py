"""Detecting with mmdet 3.3's SSD, which asks its head for a loss that it does not have.

``BaseDenseHead`` looks at ``loss_cls`` where it decodes, and ``SSDHead`` computes its loss
without such a module: validations stop there (open-mmlab/mmdetection#11780).
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from kd_plugins.compat.loading import wrapped

_HEAD = 'mmdet.models.dense_heads.ssd_head'


class MMDetFinder(importlib.abc.MetaPathFinder):
    """Finds the module of SSD's head."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a spec for that module, None for every other one."""
        return wrapped(fullname, path, target, _with_loss) if fullname == _HEAD else None


def install() -> None:
    """Let SSD detect; calling it twice is fine."""
    if not any(isinstance(finder, MMDetFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, MMDetFinder())
        if _HEAD in sys.modules:
            _add_loss(sys.modules[_HEAD])


@contextmanager
def _with_loss(module: ModuleType) -> Iterator[None]:
    yield
    _add_loss(module)


def _add_loss(module: ModuleType) -> None:
    initialise = module.SSDHead.__init__

    # Of the object: an attribute of the class would hide a loss that a class of this one has.
    @functools.wraps(initialise)
    def with_loss(self: Any, *args: Any, **kwargs: Any) -> None:
        initialise(self, *args, **kwargs)
        if not hasattr(self, 'loss_cls'):
            self.loss_cls = None

    module.SSDHead.__init__ = with_loss
