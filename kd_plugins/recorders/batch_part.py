"""What a part before the networks says of the batch."""

from __future__ import annotations

from typing import Any

from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from torch import nn

from kd_plugins.registry import TASK_UTILS

__all__ = ['BatchPartRecorder']


@TASK_UTILS.register_module()
class BatchPartRecorder(BaseRecorder):
    """Record what one of ``model.batch_parts`` says of the current batch.

    In a config, among the student's recorders:
    ``dict(type='kd_plugins.BatchPart', source='RecursiveMix')``.

    Args:
        source: The name of the part's type, without ``kd_plugins.``.
    """

    #: The part, once it is built.
    part: Any = None

    def __init__(self, source: str) -> None:
        super().__init__(source)

    def prepare_from_model(self, model: nn.Module | None = None) -> None:
        """A part is no module of the network."""
