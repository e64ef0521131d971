"""For BCKD and LD: what a detection head predicts."""

from __future__ import annotations

from typing import Any

from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from torch import nn

from kd_plugins.recorders.head_adapters import ADAPTERS, HeadAdapter, adapter_of
from kd_plugins.recorders.listening import leave, listen
from kd_plugins.recorders.sides import beside
from kd_plugins.registry import TASK_UTILS
from kd_plugins.structures import HeadSpec

__all__ = ['DetectionHeadRecorder']


@TASK_UTILS.register_module(['DetectionHeadRecorder', 'DenseHeadRecorder'])
class DetectionHeadRecorder(BaseRecorder):
    """Records what a detection head predicts and, of the student, which targets it was given.

    In a config ``dict(type='kd_plugins.DetectionHead')`` for either side;
    ``kd_plugins.DenseHead`` names it, too. The record is a
    :class:`kd_plugins.structures.HeadOutputs`. While it records, it stands
    between this one head and its callers: the teacher's forward does not pass
    by ``__call__``, where hooks are, and the student's targets are those that
    its own loss computes, once.

    Args:
        source: The name of the head in the detector.
    """

    def __init__(self, source: str = 'bbox_head') -> None:
        super().__init__(source)
        self.adapter: HeadAdapter | None = None
        self._outs: list[Any] = []
        self._returned: list[Any] = []

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
        self._outs, self._returned = [], []
        head, outs, returned = self.adapter.head, self._outs, self._returned
        listen(head, 'forward', lambda args, kwargs, out: outs.append(out))
        listen(head, self.adapter.hears, lambda args, kwargs, out: returned.append(out))

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        super().__exit__(exc_type, exc_value, traceback)
        assert self.adapter is not None
        leave(self.adapter.head, 'forward')
        leave(self.adapter.head, self.adapter.hears)
        outs, returned, self._outs, self._returned = self._outs, self._returned, [], []
        if exc_type is not None:
            return
        for out in outs:
            images = len(out[0][0])
            if not returned:
                targets = None
            elif self.adapter.hears_each_picture:
                targets, returned = returned[:images], returned[images:]
            else:
                targets, returned = returned[0], returned[1:]
            self.data_buffer.append(self.adapter.outputs(out, targets))
