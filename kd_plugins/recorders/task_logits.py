"""What one head of a MultiTaskHead says of every picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from torch import nn

from kd_plugins.recorders.listening import leave, listen
from kd_plugins.recorders.sides import beside
from kd_plugins.registry import TASK_UTILS

__all__ = ['TaskLogitsRecorder']


@TASK_UTILS.register_module()
class TaskLogitsRecorder(BaseRecorder):
    """Record the logits of one task of mmpretrain's MultiTaskHead, (N, classes).

    In a config ``dict(type='kd_plugins.TaskLogits', task='gender')`` for either side. In
    training upstream shows a task's head those pictures only that have a label of it; the
    record is of all pictures, which the teacher can tell something about, too. The
    student's head is asked once more for it.

    Args:
        task: The name of the task, a key of ``task_heads``.
        source: The name of the MultiTaskHead in the network.

    Raises:
        ValueError: If the network has no such head or task.
    """

    def __init__(self, task: str, source: str = 'head') -> None:
        super().__init__(source)
        self.task = task
        self.num_classes: int | None = None
        self._head: Any = None

    def check_source(
        self, network: nn.Module, key: str, side: str, other: nn.Module | None = None
    ) -> None:
        """Refuse a network without such a head, or a head without that task.

        Args:
            network: The student or the teacher.
            key: The config key of this recorder.
            side: 'student' or 'teacher'.
            other: The network of the other side.

        Raises:
            ValueError: Naming what there is.
        """
        head = dict(network.named_modules()).get(self.source)
        tasks = getattr(head, 'task_heads', None)
        if not isinstance(tasks, nn.ModuleDict):
            raise ValueError(
                f'{key}.source={self.source!r} of the {side} ({type(network).__name__}'
                f'{beside(side, other)}) is no MultiTaskHead: record its logits with '
                "type='ModuleOutputs'."
            )
        if self.task not in tasks:
            raise ValueError(
                f'{key}.task={self.task!r} is no task of the {side}, which has '
                f'{", ".join(map(repr, tasks))}.'
            )

    def prepare_from_model(self, model: nn.Module | None = None) -> None:
        """Find the head."""
        assert model is not None
        self._head = model.get_submodule(self.source)
        classes = getattr(self._head.task_heads[self.task], 'num_classes', None)
        self.num_classes = classes if isinstance(classes, int) else None

    def __enter__(self) -> None:
        super().__enter__()
        listen(self._head, 'loss', self._hear_loss)
        listen(self._head, 'forward', self._hear_forward)

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        super().__exit__(exc_type, exc_value, traceback)
        leave(self._head, 'loss')
        leave(self._head, 'forward')

    def _hear_loss(self, args: tuple, kwargs: Mapping[str, Any], returned: Any) -> None:
        feats = kwargs['feats'] if 'feats' in kwargs else args[0]
        self.data_buffer.append(self._head.task_heads[self.task](feats))

    def _hear_forward(self, args: tuple, kwargs: Mapping[str, Any], returned: Any) -> None:
        self.data_buffer.append(returned[self.task])
