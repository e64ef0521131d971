"""Feature maps of several levels in one record, for ReviewKD and its like."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from torch import Tensor, nn

from kd_plugins.registry import TASK_UTILS
from kd_plugins.structures import FeaturesSpec

RIGHT = "a list of module names, with dict(input_of='...') for what a module is given"


@TASK_UTILS.register_module()
class FeaturesRecorder(BaseRecorder):
    """Record the feature maps of several modules as one list, for connectors and terms.

    In a config ``dict(type='kd_plugins.Features')`` for the levels of a detector's neck,
    or ``dict(type='kd_plugins.Features', sources=['backbone.layer1', 'backbone.layer2',
    dict(input_of='head.fc')])``.

    Args:
        sources: In the order of the levels, names of modules whose outputs to record,
            or ``dict(input_of=...)`` for the first input of a module: that of a block's
            last ReLU is the map before the activation. A module that gives several
            maps gives as many levels. Where one is called several times in a
            pass, the last call counts.

    Raises:
        ValueError: If ``sources`` are none, or the network lacks one.
    """

    def __init__(self, sources: Sequence[str | Mapping[str, str]] = ('neck',)) -> None:
        if isinstance(sources, (str, Mapping)) or not len(sources):
            raise ValueError(f'Features.sources={sources!r} is wrong: give {RIGHT}.')
        self._places = [_place(source) for source in sources]
        super().__init__(', '.join(name for name, _ in self._places))
        self._recording = False
        self._seen: dict[int, Any] = {}
        self._missing: list[str] = []
        self._spec: FeaturesSpec | None = None
        #: Whether one of the levels is a vector, as what a classifier takes or gives.
        self.gives_vectors = False

    @property
    def source(self) -> str:
        """The modules; after a pass that left some of them out, only these."""
        return ', '.join(self._missing) or self._source

    @property
    def outputs_of(self) -> list[str | None]:
        """The modules whose outputs are recorded, None in the places of inputs."""
        return [None if of_input else name for name, of_input in self._places]

    @property
    def spec(self) -> FeaturesSpec | None:
        """What a detector's neck will give, where it says so; else None."""
        return self._spec

    @property
    def needs(self) -> str:
        """'features' where a detector's backbone and neck suffice, else 'forward'."""
        inside = all(name.split('.')[0] in ('backbone', 'neck') for name, _ in self._places)
        return 'features' if inside else 'forward'

    def check_source(
        self, network: nn.Module, key: str, side: str, other: nn.Module | None = None
    ) -> None:
        """Refuse a network that lacks one of the modules.

        Args:
            network: The student or the teacher.
            key: The config key of this recorder.
            side: 'student' or 'teacher'.
            other: The network of the other side.

        Raises:
            ValueError: Naming the module and the network.
        """
        known = {name for name, _ in network.named_modules()}
        for name, _ in self._places:
            if name not in known:
                raise ValueError(
                    f'{key}.sources: {name!r} is not in the {side} ({type(network).__name__}): '
                    f'give {RIGHT}.'
                )

    def prepare_from_model(self, model: nn.Module | None = None) -> None:
        """Hook the modules."""
        assert model is not None
        for i, (name, of_input) in enumerate(self._places):
            module = model.get_submodule(name)
            self.gives_vectors |= (
                isinstance(module, nn.Linear) or type(module).__name__ == 'GlobalAveragePooling'
            )
            if of_input:
                module.register_forward_pre_hook(functools.partial(self._see_input, i))
            else:
                module.register_forward_hook(functools.partial(self._see_output, i))
        self._spec = _neck_spec(model) if self._places == [('neck', False)] else None

    def _see_input(self, i: int, module: nn.Module, args: tuple) -> None:
        if self._recording:
            self._seen[i] = args[0]

    def _see_output(self, i: int, module: nn.Module, args: tuple, output: Any) -> None:
        if self._recording:
            self._seen[i] = output

    def __enter__(self) -> None:
        super().__enter__()
        self._seen = {}
        self._recording = True

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        super().__exit__(exc_type, exc_value, traceback)
        self._recording = False
        seen, self._seen = self._seen, {}
        if exc_type is not None:
            return
        self._missing = [name for i, (name, _) in enumerate(self._places) if i not in seen]
        if not self._missing:
            levels: list[Tensor] = []
            for i in range(len(self._places)):
                levels.extend([seen[i]] if isinstance(seen[i], Tensor) else seen[i])
            self.data_buffer.append(levels)


def _place(source: Any) -> tuple[str, bool]:
    if isinstance(source, Mapping) and set(source) == {'input_of'}:
        return source['input_of'], True
    if not isinstance(source, str):
        raise ValueError(f'Features.sources: {source!r} is wrong: give {RIGHT}.')
    return source, False


def _neck_spec(model: Any) -> FeaturesSpec | None:
    """Read mmdet's necks, which say how many levels of how many channels they give."""
    levels = getattr(model.neck, 'num_outs', None)
    channels = getattr(model.neck, 'out_channels', None)
    if not isinstance(levels, int) or not isinstance(channels, int):
        return None
    strides = None
    for name in ('rpn_head', 'bbox_head'):
        generator = getattr(getattr(model, name, None), 'prior_generator', None)
        if generator is not None and len(getattr(generator, 'strides', ())) == levels:
            strides = tuple(max(pair) for pair in generator.strides)
    return FeaturesSpec('neck', (channels,) * levels, strides)
