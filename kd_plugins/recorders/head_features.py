"""For CrossKD: maps inside of a detection head, and what the rest of another makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.losses.crosskd import align
from kd_plugins.recorders.detection_head import DetectionHeadRecorder
from kd_plugins.recorders.head_adapter import HeadAdapter
from kd_plugins.recorders.head_adapters import ADAPTERS, adapter_of
from kd_plugins.recorders.listening import leave, listen
from kd_plugins.registry import TASK_UTILS
from kd_plugins.structures import Branches, BranchesSpec, HeadOutputs, HeadSpec

__all__ = ['CrossHeadRecorder', 'HeadFeaturesRecorder']


class _BranchesRecorder(BaseRecorder):
    """Base of both: hears what the branches of a head say after some of their convolutions."""

    after: int

    def __init__(self, source: str) -> None:
        super().__init__(source)
        self.adapter: HeadAdapter | None = None
        self._heard: list[Branches] = []

    def check_source(
        self, network: nn.Module, key: str, side: str, other: nn.Module | None
    ) -> None:
        """Refuse a network whose head cannot be taken apart.

        Args:
            network: The student or the teacher.
            key: The config key of this recorder.
            side: 'student' or 'teacher'.
            other: The network of the other side.

        Raises:
            ValueError: Naming both networks and the heads that can.
        """
        DetectionHeadRecorder(self.source).check_source(network, key, side, other)
        head = network.get_submodule(self.source)
        if not adapter_of(head).branches:
            apart = [name for name, adapter in ADAPTERS.items() if adapter.branches]
            raise ValueError(
                f'{key}.source={self.source!r} of the {side} ({type(network).__name__}) is a '
                f'{type(head).__name__}, which does not classify and find boxes in two branches of '
                f'convolutions: give a detector with one of {", ".join(apart)}.'
            )

    def prepare_from_model(self, model: nn.Module | None = None) -> None:
        """Find the head and how to read it."""
        assert model is not None
        self.adapter = adapter_of(model.get_submodule(self.source))

    def _last_convs(self, branch: str) -> list[Any]:
        """Return the convolutions after which the maps of a branch are taken."""
        assert self.adapter is not None
        convs = getattr(self.adapter.head, branch)
        last = [each[self.after - 1] for each in _by_level(convs)] if self.after else []
        # One that all levels share is heard level after level.
        return list(dict.fromkeys(last))

    def __enter__(self) -> None:
        super().__enter__()
        assert self.adapter is not None
        self._heard = []
        cls: list[Tensor] = []
        reg: list[Tensor] = []

        def hear_head(args: tuple, kwargs: Mapping[str, Any], out: Any) -> None:
            if not self.after:
                cls[:] = reg[:] = args[0]
            self._heard.append(Branches(tuple(cls), tuple(reg)))
            cls.clear()
            reg.clear()

        listen(self.adapter.head, 'forward', hear_head)
        for branch, maps in (('cls_convs', cls), ('reg_convs', reg)):
            for conv in self._last_convs(branch):
                listen(conv, 'forward', partial(_keep, maps))

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        super().__exit__(exc_type, exc_value, traceback)
        assert self.adapter is not None
        leave(self.adapter.head, 'forward')
        for branch in ('cls_convs', 'reg_convs'):
            for conv in self._last_convs(branch):
                leave(conv, 'forward')


@TASK_UTILS.register_module()
class HeadFeaturesRecorder(_BranchesRecorder):
    """Records the maps of both branches of the student's head after some convolutions.

    In a config ``dict(type='kd_plugins.HeadFeatures', after=3)``, for a teacher's
    :class:`CrossHeadRecorder` to be asked about. The record is a
    :class:`kd_plugins.structures.Branches`, after the activation.

    Args:
        after: After how many convolutions of each branch; 0 for what the head is given.
            Published for branches of four: 3, and 2 for FCOS.
        source: The name of the head in the detector.

    Raises:
        ValueError: If the student's head cannot be taken apart, or has fewer convolutions.
    """

    def __init__(self, after: int, source: str = 'bbox_head') -> None:
        super().__init__(source)
        self.after = checks.whole_number('HeadFeatures.after', after, least=0)

    @property
    def spec(self) -> BranchesSpec | None:
        """What can be said about the maps before the head runs; None before it is known."""
        if self.adapter is None:
            return None
        head = self.adapter.head
        return BranchesSpec(
            self.adapter.spec.head, self.after, _depth(head), _channels(head, self.after)
        )

    def check_source(
        self, network: nn.Module, key: str, side: str, other: nn.Module | None
    ) -> None:
        """See the base; refuse a head with fewer convolutions, too."""
        super().check_source(network, key, side, other)
        _check_depth(f'{key}.after={self.after}', self.after, network, self.source, side)

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        super().__exit__(exc_type, exc_value, traceback)
        if exc_type is None:
            self.data_buffer.extend(self._heard)


@TASK_UTILS.register_module()
class CrossHeadRecorder(_BranchesRecorder):
    """Records what the rest of the teacher's head makes of maps inside of the student's.

    In a config ``dict(type='kd_plugins.CrossHead', question='inside')`` of the teacher, where
    ``inside`` is a ``kd_plugins.HeadFeatures`` of the student. Its maps are given the mean and
    deviation of the teacher's maps of the same place (:func:`kd_plugins.losses.crosskd.align`),
    then ReLU where the teacher's convolutions end in one, then the teacher's further convolutions
    and predictors. The record is a :class:`kd_plugins.structures.HeadOutputs` with a graph to the
    student; the teacher's head stays as it is, in eval mode, and learns nothing.

    Args:
        question: The student's recorder.
        connector: The connector that brings the student's maps to the teacher's channels, where
            these differ: ``kd_plugins.CrossKDConnector``.
        source: The name of the head in the detector.

    Raises:
        ValueError: If the teacher's head cannot be taken apart, or the maps do not fit it.
    """

    def __init__(
        self, question: str, connector: str | None = None, source: str = 'bbox_head'
    ) -> None:
        super().__init__(source)
        self.question = question
        self.connector = connector
        self.after = 0

    @property
    def spec(self) -> HeadSpec | None:
        """What can be said about the head before it runs; None before it is known."""
        return None if self.adapter is None else self.adapter.spec

    def check_question(self, key: str, asked: Any, spec: Any) -> None:
        """Refuse maps that the teacher's head cannot take; learn where they are taken.

        Args:
            key: The config key of this recorder.
            asked: The student's recorder.
            spec: What is known of its maps behind the connector.

        Raises:
            ValueError: Naming both heads, and what would be right.
        """
        if not isinstance(asked, HeadFeaturesRecorder):
            raise ValueError(
                f'{key}.question={self.question!r} is no HeadFeatures of the student, whose maps '
                "the teacher's head could continue: add dict(type='kd_plugins.HeadFeatures', "
                'after=...) to student_recorders and name it.'
            )
        assert self.adapter is not None
        head, given = self.adapter.head, asked.spec
        assert given is not None
        depth = _depth(head)
        if asked.after > depth:
            raise ValueError(
                f'{key} would continue after {asked.after} convolutions of the {given.head} of '
                f'the student, and the branches of the {type(head).__name__} of the teacher have '
                f'{depth}: give {self.question} an after of at most {depth}.'
            )
        self.after = asked.after
        wanted = _channels(head, self.after)
        if isinstance(spec, BranchesSpec) and spec.channels != wanted:
            raise ValueError(
                f'{key} continues after {self.after} convolutions, where the branches of the '
                f'{given.head} of the student have {_said(given.channels)} channels'
                f'{f", {_said(spec.channels)} behind the connector," if self.connector else ""} '
                f'and those of the {type(head).__name__} of the teacher {_said(wanted)}: give '
                f"connector='wider' and connectors=dict(wider=dict(type="
                f"'kd_plugins.CrossKDConnector', in_channels={given.channels[0]}, "
                f'out_channels={wanted[0]})).'
            )

    def answer(self, network: nn.Module, record: Branches) -> HeadOutputs:
        """Return what the rest of the teacher's head makes of a record of the student."""
        assert self.adapter is not None
        if not self._heard:
            raise RuntimeError(
                f"the teacher's {self.source!r} did not run, so that there is nothing to align "
                "the student's maps with."
            )
        head: Any = network.get_submodule(self.source)
        own = self._heard[-1]
        weight = next(head.parameters())
        rectified = self.after > 0 and any(_rectifies(c) for c in self._last_convs('cls_convs'))
        aligned = [
            [align(*pair) for pair in zip(given, wanted, strict=True)]
            for given, wanted in ((record.cls, own.cls), (record.reg, own.reg))
        ]
        cls, reg = (
            [(x.relu() if rectified else x).to(weight.dtype) for x in maps] for maps in aligned
        )
        with rest_of_head(head, self.after, cls, reg):
            return self.adapter.outputs(head(tuple(cls)), None)

    def reset_data_buffer(self) -> None:
        """Let go of the records, and of the maps that were aligned with."""
        super().reset_data_buffer()
        self._heard = []


@contextmanager
def rest_of_head(
    head: Any, after: int, cls: Sequence[Tensor], reg: Sequence[Tensor]
) -> Iterator[None]:
    """Let a head's branches begin after some convolutions, with maps of their own.

    Meanwhile the head is given the maps of the classification branch.
    """
    reg_of = {id(x): y for x, y in zip(cls, reg, strict=True)}
    shared = not isinstance(head.cls_convs[0], nn.ModuleList) if len(head.cls_convs) else True
    branches: dict[str, list[Any]] = {}
    for name, first in (('cls_convs', []), ('reg_convs', [lambda x: reg_of[id(x)]])):
        levels = [[*first, *convs[after:]] for convs in _by_level(getattr(head, name))]
        branches[name] = levels[0] if shared else levels
    # In front of the modules, which stay where they are.
    head.__dict__.update(branches)
    try:
        yield
    finally:
        for name in branches:
            del head.__dict__[name]


def _keep(maps: list[Tensor], args: tuple, kwargs: Mapping[str, Any], out: Tensor) -> None:
    maps.append(out)


def _by_level(convs: Any) -> list[Any]:
    """Return the convolutions of each level; of one alone, if all levels share them."""
    per_level = len(convs) > 0 and isinstance(convs[0], nn.ModuleList)
    return list(convs) if per_level else [convs]


def _depth(head: Any) -> int:
    """Return how many convolutions both branches have."""
    return min(len(_by_level(convs)[0]) for convs in (head.cls_convs, head.reg_convs))


def _channels(head: Any, after: int) -> tuple[int, int]:
    """Return the channels of both branches after some convolutions."""
    if not after:
        return head.in_channels, head.in_channels
    last = [_by_level(convs)[0][after - 1] for convs in (head.cls_convs, head.reg_convs)]
    return last[0].out_channels, last[1].out_channels


def _check_depth(said: str, after: int, network: nn.Module, source: str, side: str) -> None:
    head = network.get_submodule(source)
    if after > _depth(head):
        raise ValueError(
            f'{said}: the branches of the {type(head).__name__} of the {side} have {_depth(head)} '
            f'convolutions: give at most {_depth(head)}.'
        )


def _rectifies(conv: Any) -> bool:
    return isinstance(getattr(conv, 'activate', None), nn.ReLU)


def _said(channels: tuple[int, int]) -> str:
    return ' and '.join(map(str, dict.fromkeys(channels)))
