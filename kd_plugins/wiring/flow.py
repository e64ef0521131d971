"""The maps that flow in a network: which module gives them, how wide, at which stride."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.networks import channels_of, forked_random_states, places_of_queries

#: As many class and register tokens as are looked for where the network does not say it.
MOST_EXTRA_TOKENS = 8
#: What attention weights, (N, heads, L, L), pass, which look like maps.
_OF_ATTENTION = ('Dropout', 'Softmax')
#: So do queries and keys, (N, heads, L, C), of modules inside of one whose type's name says this.
_ATTENTION = 'Attention'


@dataclass(frozen=True)
class FlowingMap:
    """One map of a network.

    Args:
        module: The name of the module that gives it.
        channels: Its channels.
        size: Its height and width.
        stride: Pixels of the network's own input between neighbouring positions.
        item: Which of several maps of the module; None where it gives one.
        call: Which of several calls of the module in a pass; None where there is one.
        of: How many maps the module gives, or how often it is called.
        extra_tokens: How many tokens come before those of the patches; None for a map.
        learns: Whether something that is trained gives it, where that was asked for.
    """

    module: str
    channels: int
    size: tuple[int, int]
    stride: float
    item: int | None = None
    call: int | None = None
    of: int = 1
    extra_tokens: int | None = None
    learns: bool = False

    def __str__(self) -> str:
        place = self.item if self.item is not None else self.call
        return self.module if place is None or self.of == 1 else f'{self.module}[{place}]'


@dataclass(frozen=True)
class Flow:
    """What flows in a part of a network.

    Args:
        given: The maps that the part gives, in its order.
        inside: The last map of every stride inside of it, the finest first. What is made of
            that map on the way to a coarser one does not count, nor the picture itself, as
            it is padded in front of the patches of a transformer.
        no_square: Shapes of tokens that make no square, of which nothing was made: of those that
            the part gives and, where the picture is no square, of those inside, too.
    """

    given: tuple[FlowingMap, ...]
    inside: tuple[FlowingMap, ...]
    no_square: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class _Call:
    """What a module was given first, and what it gave."""

    module: str
    input: Any
    output: Any


def flow(network: Any, size: tuple[int, int], where: str, who: str, learns: bool = False) -> Flow:
    """Run a network on a blank picture, in eval mode, and return the maps of one of its parts.

    The network and all random states are as before afterwards.

    Args:
        network: A network in mmengine's layout.
        size: Height and width of the picture.
        where: ``'backbone'``, ``'neck'`` or ``'head'``.
        who: What to call it in error messages.
        learns: Whether to look which maps learn something, for which it runs with a graph.

    Raises:
        ValueError: If it has no such part, or does not run.
    """
    part = _part(network, where, who)
    calls: list[_Call] = []
    answer = _run(network, size, part, where != 'head', calls, who, learns)
    if where == 'head':
        return Flow(_class_maps(answer, calls, size, who), ())
    extra = _extra_tokens(network.get_submodule(part))
    given = next((_maps_of(call, size, extra) for call in calls if call.module == part), [])
    counts: dict[str, int] = {}
    for call in calls:
        counts[call.module] = counts.get(call.module, 0) + 1
    last: dict[float, FlowingMap] = {}
    leaves = _strides_left(calls, size, extra)
    for call in _after_weights(network, calls):
        weighs = type(network.get_submodule(call.module)).__name__ in _OF_ATTENTION or any(
            _ATTENTION in type(network.get_submodule(above)).__name__
            for above in _above(call.module)
        )
        if counts[call.module] == 1 and isinstance(call.output, Tensor) and not weighs:
            for found in _maps_of(call, size, extra):
                if found.stride not in {leaves.get(above) for above in _above(call.module)}:
                    last[found.stride] = found
    refused = [
        tuple(x.shape)
        for call in calls
        if call.module == part or not _alike(size, (1, 1))
        for x in _tensors(call.output)
        if x.dim() == 3 and _as_map(x, size, extra) is None
    ]
    return Flow(tuple(given), tuple(last[key] for key in sorted(last)), tuple(refused))


def _part(network: Any, where: str, who: str) -> str:
    """Return the name of the module of a part."""
    names = dict(head=('bbox_head',), backbone=('backbone', 'model')).get(where, (where,))
    found = next((n for n in names if isinstance(getattr(network, n, None), nn.Module)), None)
    kind = type(network).__name__
    if found is None:
        parts = [name for name, _ in network.named_children() if name != 'data_preprocessor']
        why = f'{who} is a {kind} and has no {where}'
        if where == 'head':
            why = f'{who} is a {kind}, which has no dense head (bbox_head) that gives maps'
        raise ValueError(f'{why}: its parts are {", ".join(parts) or "none"}.')
    if found in places_of_queries(network):
        raise ValueError(
            f'{who} is a {kind}, whose {found} says something of queries and not of positions: '
            "take where='neck' or where='backbone'."
        )
    return found


def _strides_left(
    calls: Sequence[_Call], size: tuple[int, int], extra: int | None
) -> dict[str, float]:
    """Return of modules that make a coarser map of a map the stride of the latter.

    So do the stages of a network; what lies inside, at the stride that is left, is the way to
    the next stage, such as the first convolution of a ResNet's bottleneck.
    """
    found = {}
    for call in calls:
        before, after = (
            [x.stride for x in _maps_of(_Call(call.module, None, of), size, extra)]
            for of in (call.input, call.output)
        )
        if len(before) == len(after) == 1 and before[0] < after[0]:
            found[call.module] = before[0]
    return found


def _after_weights(network: nn.Module, calls: Sequence[_Call]) -> Sequence[_Call]:
    """Return the calls from the first module with weights on; before it is the picture, padded."""
    for i, call in enumerate(calls):
        if next(network.get_submodule(call.module).parameters(), None) is not None:
            return calls[i:]
    return ()


def _above(name: str) -> Iterator[str]:
    """Yield the names of the modules that a module is inside of."""
    while '.' in name:
        name = name.rpartition('.')[0]
        yield name


def _run(
    network: Any,
    size: tuple[int, int],
    part: str,
    features: bool,
    calls: list[_Call],
    who: str,
    learns: bool,
) -> Any:
    """Run it; note what the part and the modules inside of it give, in their order."""

    def after(name: str) -> Callable[..., None]:
        return lambda module, args, out: calls.append(_Call(name, args[0] if args else None, out))

    modules = network.get_submodule(part).named_modules(prefix=part)
    handles = [module.register_forward_hook(after(name)) for name, module in modules]
    training = {module: module.training for module in network.modules()}
    network.eval()
    like = next(network.parameters())
    blank = like.new_zeros(1, channels_of(network), *size)
    try:
        with torch.set_grad_enabled(learns), forked_random_states():
            if features and hasattr(network, 'extract_feat'):
                try:
                    return network.extract_feat(blank)
                except NotImplementedError:  # mmpretrain's wrappers of other packages
                    calls.clear()
            return network(blank, mode='tensor')
    except Exception as error:  # a network's own code may refuse in any way
        raise ValueError(
            f'{who} does not run on a blank picture of {size[0]} x {size[1]} pixels: '
            f'{type(error).__name__}: {checks.said(error)}'
        ) from error
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode


def _tensors(output: Any) -> Sequence[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    flat = isinstance(output, (tuple, list)) and all(isinstance(x, Tensor) for x in output)
    return output if flat else []


def _maps_of(call: _Call, size: tuple[int, int], extra: int | None) -> list[FlowingMap]:
    """Return the maps in what a module gave."""
    several = _tensors(call.output)
    found = []
    for i, x in enumerate(several):
        seen = _as_map(x, size, extra)
        if seen is not None:
            item = None if isinstance(call.output, Tensor) else i
            found.append(
                FlowingMap(call.module, *seen[:2], _stride(size, seen[1]), item, None,
                           len(several), seen[2], x.requires_grad)
            )  # fmt: skip
    return found


def _stride(size: tuple[int, int], grid: tuple[int, int]) -> float:
    return round(max(size[0] / grid[0], size[1] / grid[1]), 2)


def _as_map(
    x: Tensor, size: tuple[int, int], extra: int | None
) -> tuple[int, tuple[int, int], int | None] | None:
    """Return channels, size and extra tokens of a map or of tokens; None for anything else."""
    if x.dim() == 4 and len(x) == 1 and min(x.shape[2:]) > 1:
        height, width = x.shape[2:]
        # Of other proportions than the picture it is channels last, or the heads of an attention.
        return (x.shape[1], (height, width), None) if _alike(size, (height, width)) else None
    # Nor are tokens a square that are of a picture which is none: 24 x 6 are as many as 12 x 12.
    if x.dim() == 3 and len(x) == 1 and _alike(size, (1, 1)):
        for tokens in range(MOST_EXTRA_TOKENS + 1) if extra is None else (extra,):
            side = round(max(x.shape[1] - tokens, 0) ** 0.5)
            if side > 1 and side**2 == x.shape[1] - tokens:
                return x.shape[2], (side, side), tokens
    return None


def _alike(size: tuple[int, int], grid: tuple[int, int]) -> bool:
    """Whether a map has about the proportions of the picture."""
    return 0.75 < (size[0] / grid[0]) / (size[1] / grid[1]) < 1.33


def _extra_tokens(part: Any) -> int | None:
    """Return how many tokens of a transformer are of no patch, where it says so."""
    for key in ('num_extra_tokens', 'num_prefix_tokens'):
        number = getattr(part, key, None)
        if isinstance(number, int):
            return number
    return None


def _class_maps(
    answer: Any, calls: Sequence[_Call], size: tuple[int, int], who: str
) -> tuple[FlowingMap, ...]:
    """Return the maps of class scores, which dense heads give first."""
    first = answer[0] if isinstance(answer, (tuple, list)) and len(answer) else answer
    wanted = _tensors(first)
    found = []
    if isinstance(answer, (tuple, list)) and len(answer) == 1:
        raise ValueError(
            f'{who} has a head whose maps are class scores and boxes in one, as of YOLOv3, so '
            "that no recorder can read the scores: take where='neck' or where='backbone'."
        )
    for x in wanted:
        name = next((call.module for call in calls if call.output is x), None)
        if name is None or x.dim() != 4:
            raise ValueError(
                f'{who} computes the class scores of its head from several modules (no module '
                f'gives them), so that no recorder can read them: take a term of dense heads, such '
                "as ld, bckd or crosskd, or where='neck'."
            )
        own = [call.output for call in calls if call.module == name]
        call = next(i for i, output in enumerate(own) if output is x)
        grid = (x.shape[2], x.shape[3])
        several = call if len(own) > 1 else None
        found.append(
            FlowingMap(
                name, x.shape[1], grid, _stride(size, grid), call=several, of=len(own),
                learns=x.requires_grad,
            )
        )  # fmt: skip
    return tuple(found)


def described(maps: Sequence[FlowingMap]) -> str:
    """Say what maps there are, for messages."""
    return ', '.join(f'{x} ({x.channels} channels at stride {x.stride:g})' for x in _once(maps))


def _once(maps: Sequence[FlowingMap]) -> Iterator[FlowingMap]:
    yield from dict.fromkeys(maps)
