"""For BCKD and LD: what a detection head predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from torch import nn

from kd_plugins.recorders.head_adapter import Assigned, HeadAdapter
from kd_plugins.recorders.head_adapters import ADAPTERS, adapter_of
from kd_plugins.recorders.listening import leave, listen
from kd_plugins.recorders.sides import beside
from kd_plugins.registry import TASK_UTILS
from kd_plugins.structures import HeadOutputs, HeadSpec

__all__ = ['DetectionHeadRecorder']


@TASK_UTILS.register_module(['DetectionHeadRecorder', 'DenseHeadRecorder'])
class DetectionHeadRecorder(BaseRecorder):
    """Records what a detection head predicts and, of the student, which targets it was given.

    In a config ``dict(type='kd_plugins.DetectionHead')`` for either side;
    ``kd_plugins.DenseHead`` names it, too. The record is a
    :class:`kd_plugins.structures.HeadOutputs`. While it records, it stands
    between this one head and its callers: the teacher's forward does not pass
    by ``__call__``, where hooks are, and the student's targets are those that
    its own loss computes, once. Where the objects of a picture have ``scores``, as
    :class:`kd_plugins.algorithms.PseudoBoxes` gives them, the targets are weighted by these.

    Args:
        source: The name of the head in the detector.
    """

    #: Of the student's forward: what terms read of it are targets, too.
    needs_loss = True

    def __init__(self, source: str = 'bbox_head') -> None:
        super().__init__(source)
        self.adapter: HeadAdapter | None = None
        self._outs: list[Any] = []
        self._assigned: list[Assigned] = []
        self._sampled: list[tuple[Any, Any]] = []

    @property
    def spec(self) -> HeadSpec | None:
        """What can be said about the head before it runs; None before it is known."""
        return None if self.adapter is None else self.adapter.spec

    def check_source(
        self, network: nn.Module, key: str, side: str, other: nn.Module | None
    ) -> None:
        """Refuse a network whose head cannot be read.

        Args:
            network: The student or the teacher.
            key: The config key of this recorder.
            side: 'student' or 'teacher'.
            other: The network of the other side.

        Raises:
            ValueError: Naming both networks and the heads that can be read.
        """
        head = dict(network.named_modules()).get(self.source)
        if head is None:
            kind, instead = type(network).__name__, ''
            if hasattr(network, 'roi_head'):
                kind += ', a two-stage detector'
                instead = ', or record two of two stages with kd_plugins.RoIHead'
            raise ValueError(
                f'{key}.source={self.source!r} is not in the {side} ({kind}{beside(side, other)}): '
                f"give a dense detector, whose 'bbox_head' is one of {', '.join(ADAPTERS)}"
                f'{instead}.'
            )
        try:
            adapter_of(head)
        except ValueError as error:
            raise ValueError(
                f'{key}.source={self.source!r} of the {side} ({type(network).__name__}): {error}'
            ) from None

    def prepare_from_model(self, model: nn.Module | None = None) -> None:
        """Find the head and how to read it."""
        assert model is not None
        self.adapter = adapter_of(model.get_submodule(self.source))

    def __enter__(self) -> None:
        super().__enter__()
        assert self.adapter is not None
        self._outs, self._assigned, self._sampled = [], [], []
        head, outs = self.adapter.head, self._outs
        listen(head, 'forward', lambda args, kwargs, out: outs.append(out))
        listen(head, self.adapter.hears, self._hear_targets)
        if self._sampler is not None:
            listen(self._sampler, 'sample', self._hear_sample)

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        super().__exit__(exc_type, exc_value, traceback)
        assert self.adapter is not None
        leave(self.adapter.head, 'forward')
        leave(self.adapter.head, self.adapter.hears)
        if self._sampler is not None:
            leave(self._sampler, 'sample')
        outs, assigned = self._outs, self._assigned
        self._outs, self._assigned, self._sampled = [], [], []
        if exc_type is not None:
            return
        for out in outs:
            several = len(out[0][0]) if self.adapter.hears_each_picture else 1
            of_this, assigned = assigned[:several], assigned[several:]
            self.data_buffer.append(self._record(out, of_this))

    @property
    def _sampler(self) -> Any:
        """What tells the head which anchor stands for which object, where a head has it."""
        assert self.adapter is not None
        return getattr(self.adapter.head, 'sampler', None)

    def _hear_sample(self, args: tuple, kwargs: Mapping[str, Any], returned: Any) -> None:
        objects = kwargs['gt_instances'] if 'gt_instances' in kwargs else args[2]
        self._sampled.append((objects, returned))

    def _hear_targets(self, args: tuple, kwargs: Mapping[str, Any], returned: Any) -> None:
        self._assigned.append(Assigned(args, kwargs, returned, self._sampled))
        self._sampled = []

    def _record(self, out: Any, assigned: list[Assigned]) -> HeadOutputs:
        assert self.adapter is not None
        each = [call.returned for call in assigned]
        returned = each if self.adapter.hears_each_picture else next(iter(each), None)
        record = self.adapter.outputs(out, returned if assigned else None)
        if record.targets is None:
            return record
        scores = self.adapter.scores(record.targets.positive, assigned)
        if scores is None:
            return record
        return replace(record, targets=record.targets.trusting(scores))
