"""Building recorders by the names that configs give them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope

from kd_plugins.registry import name_of


def recorders_of(cfg: Mapping[str, Any]) -> Any:
    """Build recorders that are no part of a distiller.

    Args:
        cfg: Their configs by name, as in ``model.distiller.teacher_recorders``.
    """
    from mmrazor.models.task_modules.recorder import RecorderManager

    config = ConfigDict(teacher_recorders=copy.deepcopy(dict(cfg)))
    name_recorders(config)
    with DefaultScope.overwrite_default_scope('mmrazor'):
        return RecorderManager(config.teacher_recorders)


def name_recorders(cfg: ConfigDict) -> None:
    """Give recorders the names that mmrazor builds them by, which it adds "Recorder" to.

    New-style configs have classes there, and what mmengine writes of such a config
    the paths of these classes.

    Args:
        cfg: The config of a distiller; it is changed.
    """
    for side in ('student_recorders', 'teacher_recorders'):
        for recorder in (cfg.get(side) or {}).values():
            kind, name = recorder.get('type'), name_of(recorder.get('type'))
            if name.endswith('Recorder'):
                path = kind if isinstance(kind, str) else kind.__module__
                recorder.type = f'{path.split(".")[0]}.{name.removesuffix("Recorder")}'
