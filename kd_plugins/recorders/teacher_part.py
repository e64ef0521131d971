"""For terms that ask the teacher's frozen layers about the student's features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.recorders.sides import beside
from kd_plugins.registry import TASK_UTILS

__all__ = ['TeacherPartRecorder']


@TASK_UTILS.register_module()
class TeacherPartRecorder(BaseRecorder):
    """Records what some of the teacher's modules make of features of the student.

    In a config ``dict(type='kd_plugins.TeacherPart', question='pooled', connector='transfer',
    modules=['head.fc'])`` of the teacher: a record of the student's recorder ``pooled`` goes
    through the connector, then through the teacher's modules, one after the other. The answer has
    a graph to the student and to the connector; the modules stay as they are, in eval mode.

    Args:
        question: The student's recorder.
        modules: Names of modules of the teacher. Each is given what the one before it gave.
        connector: The connector that brings the features into the teacher's space, if one does.

    Raises:
        ValueError: If the teacher lacks a module; in a step, if one cannot take what it is given.
    """

    def __init__(self, question: str, modules: Sequence[str], connector: str | None = None) -> None:
        if isinstance(modules, str) or not modules:
            raise ValueError(
                f'TeacherPart.modules={modules!r} is wrong: give a list of names of modules.'
            )
        super().__init__(', '.join(modules))
        self.question = question
        self.modules = tuple(modules)
        self.connector = connector

    def check_source(
        self, network: nn.Module, key: str, side: str, other: nn.Module | None
    ) -> None:
        """Refuse a student, and a teacher that lacks one of the modules.

        Args:
            network: The student or the teacher.
            key: The config key of this recorder.
            side: 'student' or 'teacher'.
            other: The network of the other side.

        Raises:
            ValueError: Naming the module and the network.
        """
        if side == 'student':
            raise ValueError(
                f'{key} asks the teacher: move it to teacher_recorders, and name a recorder of the '
                'student as its question.'
            )
        known = dict(network.named_modules())
        for name in self.modules:
            if name not in known:
                raise ValueError(
                    f'{key}.modules: {name!r} is not in the {side} ({type(network).__name__}'
                    f'{beside(side, other)}): give names of its modules.'
                )

    def prepare_from_model(self, model: nn.Module | None = None) -> None:
        """Nothing to prepare: it is asked, and does not listen."""

    def answer(self, network: nn.Module, record: Any) -> Any:
        """Return what the modules make of a record of the student, behind the connector."""
        for name in self.modules:
            module = network.get_submodule(name)
            weight = next(module.parameters(), None)
            if isinstance(record, Tensor) and weight is not None:
                record = record.to(weight.dtype)
            try:
                record = module(record)
            except (RuntimeError, TypeError, AttributeError) as error:
                if type(error) not in (RuntimeError, TypeError, AttributeError):
                    raise  # torch's own kinds, such as that of memory, mean something
                given = list(record.shape) if isinstance(record, Tensor) else type(record).__name__
                raise ValueError(
                    f'TeacherPart: {name!r} of the teacher does not take what it is given of '
                    f'{self.question!r} of the student ({given}; {checks.said(error)}): give a '
                    'connector that makes what the teacher has there, or ask about another record.'
                ) from error
        return record
