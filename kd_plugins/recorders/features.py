"""Feature maps of several levels in one record, for ReviewKD and its like."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.registry import TASK_UTILS
from kd_plugins.structures import FeaturesSpec

__all__ = ['FeaturesRecorder']

RIGHT = (
    "a list of module names, with dict(input_of='...') for what a module is given, and "
    "dict(output_of='...', items=[...], calls=[...], extra_tokens=...) for a part of what it gives"
)


@dataclass(frozen=True)
class Place:
    """Where maps are recorded.

    Args:
        name: The module.
        of_input: Whether they are its first input, not its output.
        items: Which of the maps that it gives, counted from 0; None for all.
        calls: Which of its calls in a pass, counted from 0; None for the last one.
        extra_tokens: How many class and other tokens come before the tokens of the
            patches; None where it gives no tokens.
    """

    name: str
    of_input: bool = False
    items: tuple[int, ...] | None = None
    calls: tuple[int, ...] | None = None
    extra_tokens: int | None = None

    def maps_in(
        self, outputs: Sequence[Any], picture: tuple[int, int] | None = None
    ) -> Iterator[Tensor]:
        """Yield the maps of what the module gave, call after call.

        Args:
            outputs: That.
            picture: Height and width of the pictures; None where they are not known.

        Raises:
            ValueError: If there are no such calls or items, or tokens that fill no square.
        """
        for call in [len(outputs) - 1] if self.calls is None else self.calls:
            if call >= len(outputs):
                raise ValueError(
                    f'Features.sources: {self.name!r} was called {len(outputs)} times, and '
                    f'calls={list(self.calls or ())}: count them from 0.'
                )
            found = _brought_to_map(outputs[call])
            maps = [found] if isinstance(found, Tensor) else list(found)
            if self.items is not None and max(self.items) >= len(maps):
                raise ValueError(
                    f'Features.sources: {self.name!r} gives {len(maps)} maps, and '
                    f'items={list(self.items)}: count them from 0.'
                )
            for x in maps if self.items is None else [maps[i] for i in self.items]:
                yield x if self.extra_tokens is None else self._square(x, picture)

    def names(self, number: int) -> list[str]:
        """Return what so many maps of it are called."""
        places = self.items or self.calls or range(number)
        if number == 1 and self.items is None and self.calls is None:
            return [self.name]
        if len(places) != number:
            places = range(number)
        return [f'{self.name}[{i}]' for i in places]

    def _square(self, tokens: Tensor, picture: tuple[int, int] | None) -> Tensor:
        """Return the tokens of the patches, (N, L, C), as a map, (N, C, side, side)."""
        patches = tokens[:, self.extra_tokens :]
        side = round(patches.shape[1] ** 0.5)
        if tokens.dim() != 3 or side**2 != patches.shape[1] or not side:
            raise ValueError(
                f'Features.sources: {self.name!r} gives {tuple(tokens.shape)}, which without '
                f'extra_tokens={self.extra_tokens} fills no square of tokens, (N, L, C): count the '
                'class and register tokens, or record a module that gives maps, and leave '
                'extra_tokens out.'
            )
        # Of 24 x 6 patches there are as many as of 12 x 12.
        if picture is not None and not 0.75 < picture[0] / picture[1] < 1.33:
            raise ValueError(
                f'Features.sources: {self.name!r} gives tokens of pictures of {picture[0]} x '
                f'{picture[1]} pixels, which make no square, and extra_tokens='
                f'{self.extra_tokens} would make one of them: train on square pictures, or record '
                'a module that gives maps.'
            )
        return patches.unflatten(1, (side, side)).movedim(-1, 1)


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
            pass, the last call counts. ``dict(output_of='neck', items=[0, 1])``
            records some of its maps; with ``calls=[0, 1]`` these of its calls, as of a
            detection head that is called level by level; with ``extra_tokens=1`` the
            tokens of a transformer but the first one, (N, L, C), as a map of their
            square, (N, C, H, W), of square pictures. Tokens that a module gives with their height
            and width, as the stages of a Swin transformer do, become a map by themselves.

    Raises:
        ValueError: If ``sources`` are none, or the network lacks one; in a step, if a
            module gives fewer maps, or tokens that fill no square.
    """

    def __init__(self, sources: Sequence[str | Mapping[str, Any]] = ('neck',)) -> None:
        if isinstance(sources, (str, Mapping)) or not len(sources):
            raise ValueError(f'Features.sources={sources!r} is wrong: give {RIGHT}.')
        self._places = [_place(source) for source in sources]
        super().__init__(', '.join(place.name for place in self._places))
        self._recording = False
        self._seen: dict[int, list[Any]] = {}
        self._missing: list[str] = []
        self._picture: tuple[int, int] | None = None
        self._spec: FeaturesSpec | None = None
        #: Of the latest pass, what each level is of: ``'neck[0]'``.
        self.level_names: list[str] = []
        #: The module of each, and whether it is an input of it.
        self.level_places: list[tuple[str, bool]] = []
        #: Whether one of the levels is a vector, as what a classifier takes or gives.
        self.gives_vectors = False

    @property
    def source(self) -> str:
        """The modules; after a pass that left some of them out, only these."""
        return ', '.join(self._missing) or self._source

    @property
    def spec(self) -> FeaturesSpec | None:
        """What a detector's neck will give, where it says so; else None."""
        return self._spec

    @property
    def needs(self) -> str:
        """'features' where a detector's backbone and neck suffice, else 'forward'."""
        parts = {place.name.split('.')[0] for place in self._places}
        return 'features' if parts <= {'backbone', 'neck'} else 'forward'

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
        for place in self._places:
            if place.name not in known:
                raise ValueError(
                    f'{key}.sources: {place.name!r} is not in the {side} '
                    f'({type(network).__name__}): give {RIGHT}.'
                )

    def prepare_from_model(self, model: nn.Module | None = None) -> None:
        """Hook the modules."""
        assert model is not None
        for i, place in enumerate(self._places):
            module = model.get_submodule(place.name)
            self.gives_vectors |= (
                isinstance(module, nn.Linear) or type(module).__name__ == 'GlobalAveragePooling'
            )
            if place.of_input:
                module.register_forward_pre_hook(functools.partial(self._see_input, i))
            else:
                module.register_forward_hook(functools.partial(self._see_output, i))
        for part in {p.name.split('.')[0] for p in self._places if p.extra_tokens is not None}:
            model.get_submodule(part).register_forward_pre_hook(self._see_picture)
        self._spec = _neck_spec(model) if self._places == [Place('neck')] else None

    def _see_picture(self, module: nn.Module, args: tuple) -> None:
        if self._recording and args and isinstance(args[0], Tensor) and args[0].dim() == 4:
            self._picture = args[0].shape[2], args[0].shape[3]

    def _see_input(self, i: int, module: nn.Module, args: tuple) -> None:
        if self._recording:
            self._see(i, args[0])

    def _see_output(self, i: int, module: nn.Module, args: tuple, output: Any) -> None:
        if self._recording:
            self._see(i, output)

    def _see(self, i: int, found: Any) -> None:
        if self._places[i].calls is None:
            self._seen.pop(i, None)  # of several calls, the last one counts
        self._seen.setdefault(i, []).append(found)

    def __enter__(self) -> None:
        super().__enter__()
        self._seen, self._picture = {}, None
        self._recording = True

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        super().__exit__(exc_type, exc_value, traceback)
        self._recording = False
        seen, self._seen = self._seen, {}
        if exc_type is not None:
            return
        self._missing = [place.name for i, place in enumerate(self._places) if i not in seen]
        if not self._missing:
            maps = [
                [*place.maps_in(seen[i], self._picture)] for i, place in enumerate(self._places)
            ]
            self.level_names = [
                name
                for place, found in zip(self._places, maps, strict=True)
                for name in place.names(len(found))
            ]
            self.level_places = [
                (place.name, place.of_input)
                for place, found in zip(self._places, maps, strict=True)
                for _ in found
            ]
            self.data_buffer.append([x for of_place in maps for x in of_place])


def _brought_to_map(output: Any) -> Any:
    """Return tokens that come with their height and width, as those of Swin's stages, as a map."""
    if not isinstance(output, tuple) or len(output) != 2 or not isinstance(output[0], Tensor):
        return output
    tokens, size = output
    sized = isinstance(size, (tuple, list)) and all(isinstance(side, int) for side in size)
    if not sized or len(size) != 2 or tokens.dim() != 3 or tokens.shape[1] != size[0] * size[1]:
        return output
    return tokens.transpose(1, 2).unflatten(2, tuple(size))


def _place(source: Any) -> Place:
    if isinstance(source, str):
        return Place(source)
    if isinstance(source, Mapping) and set(source) == {'input_of'}:
        return Place(source['input_of'], of_input=True)
    parts = {'output_of', 'items', 'calls', 'extra_tokens'}
    if not isinstance(source, Mapping) or 'output_of' not in source or set(source) - parts:
        raise ValueError(f'Features.sources: {source!r} is wrong: give {RIGHT}.')
    chosen: dict[str, Any] = {}
    for key in ('items', 'calls'):
        numbers = source.get(key)
        if numbers is not None:
            right = 'a list of numbers, counted from 0'
            if isinstance(numbers, (str, int)) or not numbers:
                raise checks.refuse(f'Features.sources.{key}', numbers, right)
            chosen[key] = tuple(
                checks.whole_number(f'Features.sources.{key}', n, 0, right) for n in numbers
            )
    if source.get('extra_tokens') is not None:
        chosen['extra_tokens'] = checks.whole_number(
            'Features.sources.extra_tokens', source['extra_tokens'], 0
        )
    return Place(source['output_of'], **chosen)


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
