"""Matching the maps of two networks, and what a distiller of them is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import torch
from mmengine.registry import MODELS
from torch import nn

from kd_plugins import checks
from kd_plugins.losses.base import needed_arguments
from kd_plugins.losses.maps import ProjectedMapsLoss
from kd_plugins.networks import size_made_for
from kd_plugins.registry import name_of
from kd_plugins.wiring.flow import Flow, FlowingMap, described, flow
from kd_plugins.wiring.terms import class_of, resolve_term

WHERE = ('neck', 'backbone', 'head')
#: Strides are the same up to this factor: pictures of 299 pixels have maps of 8, and patches
#: are 14 or 16 pixels wide.
SAME_STRIDE = 1.2
#: Sides of the blank picture of classifiers and detectors; all strides up to 128 divide the other.
SIDES = dict(classifier=224, detector=384)
_RECORD, _CONNECTOR = 'maps', 'projector'


@dataclass(frozen=True)
class Side:
    """A network that is wired.

    Args:
        name: What messages call it.
        network: The network.
        size: Height and width of the blank picture; None for what it was made for, or
            :data:`SIDES`.
    """

    name: str
    network: nn.Module
    size: tuple[int, int] | None = None

    @property
    def blank_size(self) -> tuple[int, int]:
        """Height and width of the picture that it is run on."""
        side = SIDES['classifier' if hasattr(self.network, 'head') else 'detector']
        return self.size or size_made_for(self.network) or (side, side)


class Level(NamedTuple):
    """Two maps that are compared."""

    student: FlowingMap
    teacher: FlowingMap


@dataclass(frozen=True)
class Wiring:
    """Which maps of two networks a term compares, and by what layers; plain values only.

    Args:
        levels: The maps.
        loss: The config of the term's loss.
        norm: Whether a norm follows a projector of the connector.
        asks_head: Whether the term weighs positions by what the teacher's head says.
    """

    levels: tuple[Level, ...]
    loss: Mapping[str, Any]
    norm: bool = True
    asks_head: bool = False

    @property
    def widths(self) -> tuple[list[int], list[int]]:
        """Channels of the levels of the student and of the teacher."""
        student, teacher = ([x.channels for x in side] for side in zip(*self.levels, strict=True))
        return student, teacher

    @property
    def connects(self) -> bool:
        """Whether layers beside the term bring the student's maps to the teacher's channels."""
        projects = 'channels_S' in self.loss or class_of(self.loss).any_channels
        return not projects and self.widths[0] != self.widths[1]

    def distiller(self) -> dict[str, Any]:
        """Return it in mmrazor's vocabulary."""
        recorders = [
            {_RECORD: dict(type='kd_plugins.Features', sources=_sources(side))}
            for side in zip(*self.levels, strict=True)
        ]
        preds_S: dict[str, Any] = dict(recorder=_RECORD, from_student=True)
        more: dict[str, Any] = {}
        if self.connects:
            preds_S['connector'] = _CONNECTOR
            more['connectors'] = {_CONNECTOR: self._connector()}
        mapping = dict(preds_S=preds_S, preds_T=dict(recorder=_RECORD, from_student=False))
        if self.asks_head:
            recorders[1]['head'] = dict(type='kd_plugins.DetectionHead')
            mapping['head_T'] = dict(recorder='head', from_student=False)
        name = f'loss_{name_of(self.loss["type"]).removesuffix("Loss").lower()}'
        return dict(
            student_recorders=recorders[0],
            teacher_recorders=recorders[1],
            **more,
            distill_losses={name: dict(self.loss)},
            loss_forward_mappings={name: mapping},
        )

    def _connector(self) -> dict[str, Any]:
        before, after = self.widths
        cfg = dict(type='kd_plugins.MapsConnector', in_channels=before, out_channels=after)
        return dict(cfg, norm_cfg=dict(type='BN')) if self.norm else cfg

    def learned(self) -> int:
        """Return how many parameters its layers have, of the connector and the term."""
        with torch.device('meta'):
            parts = [MODELS.build(dict(self.loss))]
            if self.connects:
                parts.append(MODELS.build(self._connector()))
        return sum(p.numel() for part in parts for p in part.parameters())


def wire(
    student: Side,
    teacher: Side,
    term: str | Mapping[str, Any],
    where: str | None = None,
    key: str = 'model.distiller.term',
) -> Wiring:
    """Wire the maps of two networks.

    Both run once on a blank picture, as they are. Maps of the same stride are compared,
    each network's own pixels counted; where the two parts give none, the last maps of a
    stride inside of them are, the coarsest that both have.

    Args:
        student: The student.
        teacher: The teacher.
        term: The name of a term, or the config of a loss on maps.
        where: ``'neck'``, ``'backbone'`` or ``'head'`` (class scores of dense heads); None
            for the necks of two detectors that have one, else the backbones.
        key: What messages call the setting of the term.

    Raises:
        ValueError: If they do not fit each other or the term; the message names both.
    """
    named, loss = resolve_term(term, student.network, key)
    if where is None:
        both = all(_has_neck(side.network) for side in (student, teacher))
        where = 'neck' if both else 'backbone'
    checks.one_of('where', where, WHERE)
    if loss.get('levels', 0) is None:
        del loss['levels']
    kind = class_of(loss)
    asks_head = 'head_T' in needed_arguments(kind)
    if asks_head and where != 'neck':
        raise ValueError(
            f"{key} weighs positions by what the teacher's dense head says of its neck's maps, and "
            f'the {where} of {student.name} is compared with that of {teacher.name}: take another '
            "term, or two detectors with where='neck'."
        )
    flows = [
        _trained(
            flow(student.network, student.blank_size, where, student.name, True), student, where
        ),
        flow(teacher.network, teacher.blank_size, where, teacher.name),
    ]
    levels = _matched(flows, student, teacher, where)
    taken = levels = levels[:4] if named.first_of_five and len(levels) == 5 else levels
    if 'levels' in loss:
        taken = _chosen(levels, loss['levels'], key)
    if asks_head:
        _check_all_levels(levels, flows[1], teacher, key)
    elif 'levels' in loss:
        del loss['levels']
        levels = taken
    if issubclass(kind, ProjectedMapsLoss):
        sides = zip(*taken, strict=True)
        for name, side in zip(('channels_S', 'channels_T'), sides, strict=True):
            channels = [x.channels for x in side]
            if list(loss.get(name, channels)) != channels:
                right = f'{channels}, those of the maps that are wired, or leave it out'
                raise checks.refuse(f'{key}.{name}', loss[name], right)
            loss[name] = channels
    loss.setdefault('resize', 'coarser')
    wiring = Wiring(tuple(levels), loss, named.norm, asks_head)
    if where == 'head':
        _check_scores(wiring, student, teacher, flows)
    _check_size(wiring, student, teacher, where, key)
    return wiring


def _has_neck(network: Any) -> bool:
    return isinstance(getattr(network, 'neck', None), nn.Module) and not hasattr(network, 'head')


def _matched(flows: Sequence[Flow], student: Side, teacher: Side, where: str) -> list[Level]:
    levels = _same_strides(flows[0].given, flows[1].given)
    # What is inside of a transformer before its first layer is a map, too.
    odd = any(x.no_square and not x.given for x in flows)
    if not levels and where == 'backbone' and not odd:
        # What comes out first, then the coarsest inside, which says the most of it.
        ends, inside = [x.given or x.inside for x in flows], [x.inside for x in flows]
        for pair in (ends, [inside[0], ends[1]], inside):
            levels = levels or _same_strides(*pair)[-1:]
    if levels:
        return levels
    said = []
    for side, found in zip((student, teacher), flows, strict=True):
        maps = found.given or (found.inside if where == 'backbone' else ())
        if not found.given and found.no_square:
            raise ValueError(
                f'the {where} of {side.name} gives tokens of shape {list(found.no_square[0])}, '
                f'which make no square map of pictures of {" x ".join(map(str, side.blank_size))} '
                'pixels, with or without class tokens, so that '
                f'{student.name} and {teacher.name} cannot be compared there: take another part '
                'by where, or write the recorders yourself.'
            )
        if where == 'neck' and not found.given:
            # As a pooling, after which there are no positions.
            raise ValueError(
                f'the neck of {side.name} gives no map of positions, so that {student.name} and '
                f"{teacher.name} cannot be compared there: take where='backbone'."
            )
        said.append(f'{side.name} gives {described(maps) or "no map of positions"}')
    raise ValueError(
        f'the {where}s have no stride in common: {said[0]}, and {said[1]}; take another part by '
        'where, or networks with a common stride.'
    )


def _same_strides(student: Sequence[FlowingMap], teacher: Sequence[FlowingMap]) -> list[Level]:
    """Return pairs of maps of the same stride, in the student's order.

    Where there are several of one stride, the last of both are a pair, and so on before them.
    """
    left = list(teacher)
    found = []
    for x in reversed(student):
        fits = [y for y in left if _ratio(x, y) <= SAME_STRIDE]
        if fits:
            best = min(reversed(fits), key=lambda y: _ratio(x, y))
            left.remove(best)
            found.append(Level(x, best))
    return found[::-1]


def _ratio(x: FlowingMap, y: FlowingMap) -> float:
    return max(x.stride, y.stride) / min(x.stride, y.stride)


def _chosen(levels: Sequence[Level], numbers: Any, key: str) -> list[Level]:
    right = f'numbers of the {len(levels)} levels that are wired, counted from 0'
    if isinstance(numbers, (str, int)) or not numbers:
        raise checks.refuse(f'{key}.levels', numbers, right)
    for number in numbers:
        checks.whole_number(f'{key}.levels', number, 0, right)
        if number >= len(levels):
            raise checks.refuse(f'{key}.levels', list(numbers), right)
    return [levels[number] for number in numbers]


def _check_all_levels(levels: Sequence[Level], found: Flow, teacher: Side, key: str) -> None:
    """Refuse a term that reads the teacher's head on other maps than the head's own."""
    if tuple(level.teacher for level in levels) != found.given:
        raise ValueError(
            f"{key} weighs positions by what the teacher's head says on all of its maps, "
            f'{described(found.given)} of {teacher.name}, and {len(levels)} of them have a partner '
            'in the student: take another term, or networks of the same strides.'
        )


def _trained(found: Flow, student: Side, where: str) -> Flow:
    """Return the student's maps without those before which everything is frozen."""
    given = tuple(x for x in found.given if x.learns)
    inside = tuple(x for x in found.inside if x.learns)
    if (found.given or found.inside) and not given + inside:
        raise ValueError(
            f'the {where} of {student.name} is frozen (frozen_stages), so that no term on its maps '
            'would train anything of it: let it train, or take another part by where.'
        )
    return Flow(given, inside, found.no_square)


def _check_scores(wiring: Wiring, student: Side, teacher: Side, flows: Sequence[Flow]) -> None:
    """Refuse class scores whose channels mean something else in the teacher."""
    heads: list[Any] = [side.network.bbox_head for side in (student, teacher)]
    instead = (
        'scores of classes and anchors are not projected; take two heads of the same ones, or '
        "where='neck'."
    )
    if wiring.widths[0] != wiring.widths[1]:
        raise ValueError(
            f'{student.name} and {teacher.name} give class scores of other channels, '
            f'{described(flows[0].given)} and {described(flows[1].given)}: {instead}'
        )
    # As many channels may be 9 anchors of 2 classes, or 3 of 6.
    classes = [getattr(head, 'num_classes', None) for head in heads]
    anchors = [_anchors_by_stride(head) for head in heads]
    common = anchors[0].keys() & anchors[1].keys()
    if classes[0] != classes[1] or any(anchors[0][key] != anchors[1][key] for key in common):
        said = [
            f'{kind.name} has {number} classes and anchors {next(iter(boxes.values()), "none")} '
            'at its first level'
            for kind, number, boxes in zip((student, teacher), classes, anchors, strict=True)
        ]
        raise ValueError(
            f'class scores of as many channels mean something else: {said[0]}, {said[1]}: {instead}'
        )


def _anchors_by_stride(head: Any) -> dict[Any, list[Any]]:
    """Return the boxes of several anchors a location; one alone is about the same thing."""
    generator = getattr(head, 'prior_generator', None)
    levels = [x.round().tolist() for x in getattr(generator, 'base_anchors', ())]
    strides = getattr(generator, 'strides', ())
    return {stride: boxes for stride, boxes in zip(strides, levels, strict=False) if len(boxes) > 1}


def _check_size(wiring: Wiring, student: Side, teacher: Side, where: str, key: str) -> None:
    learned = wiring.learned()
    own = sum(p.numel() for p in student.network.parameters())
    if learned > own:
        raise ValueError(
            f'{key} ({name_of(wiring.loss["type"])}) would learn {learned:,} parameters to '
            f'bring the {where} of {student.name} ({wiring.widths[0]} channels) to that of '
            f'{teacher.name} ({wiring.widths[1]}), and the whole student has {own:,}: take '
            'a term with smaller layers (cwd, pkd, mse), or another part by where.'
        )


def _sources(maps: Sequence[FlowingMap]) -> list[Any]:
    """Return the ``sources`` of a Features recorder, as short as they can be."""
    sources: list[Any] = []
    keys = ('module', 'extra_tokens')
    for (module, tokens), group in groupby(maps, lambda x: tuple(getattr(x, k) for k in keys)):
        found = list(group)
        source: dict[str, Any] = {}
        items, calls = [x.item for x in found], [x.call for x in found]
        if None not in items and items != [*range(found[0].of)]:
            source['items'] = items
        if None not in calls:
            source['calls'] = calls
        if tokens is not None:
            source['extra_tokens'] = tokens
        sources.append(dict(output_of=module, **source) if source else module)
    return sources
