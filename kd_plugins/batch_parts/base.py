"""What a part before the networks is to the algorithm."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.registry import TASK_UTILS
from kd_plugins.structures import Progress

__all__ = ['BatchPart', 'build_batch_parts', 'record_parts']

KEY = 'model.batch_parts'


class BatchPart:
    """Changes every training batch before a network sees it, and may remember what came of it.

    The algorithm calls :meth:`change` before the teacher looks and the student
    computes, so that both see the same pictures, and :meth:`remember` after the step.
    A part has no weights: it is in no checkpoint and no optimizer. Copies of the
    algorithm (EMA's is one) begin without a memory, and validation and test never
    meet it.

    Attributes:
        record: What it says of the current batch, for a term to read: the
            student's recorder ``dict(type='kd_plugins.BatchPart', source=NAME)``.
        mixes_labels: Whether the labels become mixtures of many classes.
        progress: How far the training has come.
    """

    record: Any = None
    mixes_labels = False
    progress: Progress | None = None

    def prepare(self, student: nn.Module, recorders: Mapping[str, Any]) -> None:
        """Look at the student, and refuse what the part cannot work with.

        Args:
            student: The network that will get the changed batches.
            recorders: The student's recorders, by name.

        Raises:
            ValueError: Naming the key, and what would be right.
        """

    def change(self, inputs: Tensor, data_samples: list | None) -> tuple[Tensor, list | None]:
        """Return the batch that the networks get; the given one stays as it is.

        Args:
            inputs: The preprocessed batch, (N, channels, H, W).
            data_samples: Its samples.
        """
        raise NotImplementedError

    def remember(self, recorded: Callable[[str], Any]) -> None:
        """Take what the student said of the batch.

        Args:
            recorded: Returns what one of the student's recorders holds, by its name.
        """

    def forget(self) -> None:
        """Let go of what is remembered."""

    def set_progress(self, progress: Progress | None) -> None:
        """Take the progress of the training; called before every step."""
        self.progress = progress

    def __deepcopy__(self, memo: dict[int, Any]) -> BatchPart:
        clone = copy.copy(self)
        clone.forget()
        return clone


def build_batch_parts(
    cfgs: Sequence[Mapping[str, Any]], student: nn.Module, distiller: Any
) -> list[BatchPart]:
    """Build the parts of an algorithm, in the order in which they change a batch.

    Args:
        cfgs: ``model.batch_parts``.
        student: The network that will get the changed batches.
        distiller: Whose recorders read the student and the parts.

    Raises:
        ValueError: If something beside a part cannot work with it, or a recorder
            names a part that is not there.
    """
    if isinstance(cfgs, (str, Mapping)) or not all(isinstance(cfg, Mapping) for cfg in cfgs):
        raise checks.refuse(KEY, cfgs, "a list of parts, [dict(type='kd_plugins.RecursiveMix')]")
    parts = {}
    for cfg in cfgs:
        part = TASK_UTILS.build(dict(cfg))
        if not isinstance(part, BatchPart):
            raise ValueError(
                f'{KEY} has a {type(part).__name__}, which changes no batch: give parts such as '
                "dict(type='kd_plugins.RecursiveMix')."
            )
        if type(part).__name__ in parts:
            raise ValueError(f'{KEY} has two of {type(part).__name__}: keep one.')
        parts[type(part).__name__] = part
        part.prepare(student, distiller.student_recorders.recorders)
        if part.mixes_labels:
            _check_labels(type(part).__name__, distiller)
    for name, recorder in distiller.student_recorders.recorders.items():
        if hasattr(recorder, 'part'):
            if recorder.source not in parts:
                raise ValueError(
                    f'model.distiller.student_recorders.{name}.source={recorder.source!r} is not '
                    f'one of {KEY}, which has {sorted(parts)}: name one of them.'
                )
            recorder.part = parts[recorder.source]
    return list(parts.values())


def record_parts(distiller: Any) -> None:
    """Let the recorders of parts take what these say of the current batch."""
    for recorder in distiller.student_recorders.recorders.values():
        if hasattr(recorder, 'part'):
            recorder.data_buffer.append(recorder.part.record)


def _check_labels(part: str, distiller: Any) -> None:
    """Refuse terms that take labels of few classes beside a part that mixes many."""
    for name, loss in distiller.distill_losses.items():
        for module in loss.modules():
            classes = getattr(module, 'classes_per_label', None)
            if classes is not None:
                raise ValueError(
                    f'model.distiller.distill_losses.{name}: {type(module).__name__} takes labels '
                    f'of {"one class" if classes == 1 else f"at most {classes} classes"}, and '
                    f'{part} mixes those of many pictures: leave one of the two out.'
                )
