"""A recorder of the teacher whose records come from a store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from torch import nn

from kd_plugins.networks import classes_of
from kd_plugins.registry import TASK_UTILS
from kd_plugins.structures import FeaturesSpec, HeadSpec

__all__ = ['StoredRecorder']

_SPECS = dict(HeadSpec=HeadSpec, FeaturesSpec=FeaturesSpec)


@TASK_UTILS.register_module()
class StoredRecorder(BaseRecorder):
    """What stands in the place of a recorder where there is no network to record of.

    A teacher of which everything is stored puts it into ``teacher_recorders``.

    Args:
        source: What the recorder read, for messages.
        facts: What :func:`facts_of` said of the recorder.
    """

    stored = True

    def __init__(self, source: str, facts: Mapping[str, Any]) -> None:
        super().__init__(source)
        self.num_classes: int | None = facts.get('num_classes')
        self.gives_vectors: bool = facts.get('gives_vectors', False)
        self.spec: Any = None
        if facts.get('protocol') is not None:
            self.protocol = facts['protocol']
        if facts.get('spec') is not None:
            kind, values = facts['spec']
            self.spec = _SPECS[kind](**{key: _hashable(each) for key, each in values.items()})

    def prepare_from_model(self, model: nn.Module | None = None) -> None:
        """There is none."""


def facts_of(recorder: Any, network: nn.Module, protocol: str | None) -> dict[str, Any]:
    """Return what the checks of a distiller ask of a recorder, as JSON knows it."""
    from mmrazor.models.task_modules.recorder import ModuleOutputsRecorder

    classes = getattr(recorder, 'num_classes', None)
    if classes is None and type(recorder) is ModuleOutputsRecorder:
        classes = classes_of(network, recorder.source)
    spec = getattr(recorder, 'spec', None)
    known = type(spec).__name__ in _SPECS
    return dict(
        num_classes=classes,
        gives_vectors=bool(getattr(recorder, 'gives_vectors', False)),
        protocol=protocol,
        spec=[type(spec).__name__, vars(spec)] if known else None,
    )


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value
