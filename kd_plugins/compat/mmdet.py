"""Detecting with mmdet 3.3's SSD, which asks its head for a loss that it does not have.

``BaseDenseHead`` looks at ``loss_cls`` where it decodes, and ``SSDHead`` computes its loss
without such a module: validations stop there (open-mmlab/mmdetection#11780).
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from kd_plugins.compat.loading import complete


def install() -> None:
    """Let SSD detect; calling it twice is fine."""
    complete({'mmdet.models.dense_heads.ssd_head': _add_loss})


def _add_loss(module: ModuleType) -> None:
    initialise = module.SSDHead.__init__

    # Of the object: an attribute of the class would hide a loss that a class of this one has.
    @functools.wraps(initialise)
    def with_loss(self: Any, *args: Any, **kwargs: Any) -> None:
        initialise(self, *args, **kwargs)
        if not hasattr(self, 'loss_cls'):
            self.loss_cls = None

    module.SSDHead.__init__ = with_loss
