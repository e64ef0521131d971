"""The student as it was at one moment of its training, as CTC asks it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.dist import broadcast
from mmengine.model import BaseModel
from torch import Tensor, nn

from kd_plugins.shared_state import SharedState
from kd_plugins.teachers.input import TeacherInput
from kd_plugins.teachers.network import NetworkTeacher


class SnapshotTeacher(NetworkTeacher):
    """A frozen copy of the student; nobody to ask until it is taken.

    Its weights are in the checkpoints of the training, as ``distiller.snapshot.*``.

    Args:
        student: The student.
        data_preprocessor: Its own.
    """

    def __init__(self, student: BaseModel, data_preprocessor: nn.Module) -> None:
        network = copy.deepcopy(student)
        super().__init__(network, TeacherInput(data_preprocessor, None), data_preprocessor)
        self.taken = torch.tensor(False)

    def __bool__(self) -> bool:
        return bool(self.taken)

    def take(self, student: nn.Module) -> None:
        """Become what the student is now, on all processes that of the first.

        Every process has its own running averages of a batch norm, and the
        checkpoint those of the first.
        """
        kept = self.network.state_dict()
        now = student.state_dict()
        for name, tensor in kept.items():
            tensor.copy_(now[name])
            broadcast(tensor)
        self.taken.fill_(True)
        self.weights = 'the student'

    def state(self) -> SharedState:
        """Return what checkpoints keep of it."""
        return _Snapshot(self)

    def look(self, inputs: Tensor, data_samples: Sequence[Any] | None = None) -> Any:
        """See :meth:`Teacher.look`; None before it is taken."""
        return super().look(inputs, data_samples) if self else None


class _Snapshot(SharedState):
    def __init__(self, teacher: SnapshotTeacher) -> None:
        super().__init__()
        self.__dict__['teacher'] = teacher

    def kept(self) -> Mapping[str, Tensor]:
        return dict(self.teacher.network.state_dict(), taken=self.teacher.taken)

    def loaded(self) -> None:
        if self.teacher:
            self.teacher.weights = 'the student'
