"""Which maps of two networks the terms on maps compare, seen in the first batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from kd_plugins.inspect.check.report import Report, Wired
from kd_plugins.losses.maps import MapsLoss
from kd_plugins.structures import as_maps


def note_wiring(
    report: Report, distiller: Any, name: str, loss: nn.Module, given: Mapping[str, Any]
) -> None:
    """Note the levels that a term on maps compares, once; of other terms nothing.

    Args:
        report: Is filled in.
        distiller: The distiller, with the records of the step.
        name: The term's name.
        loss: The term.
        given: What it is called with.
    """
    if not isinstance(loss, MapsLoss) or any(each.term == name for each in report.wired):
        return
    sides = {}
    for argument in ('preds_S', 'preds_T'):
        record = dict(distiller.loss_forward_mappings[name][argument])
        connector = distiller.connectors[record['connector']] if 'connector' in record else None
        plain = {k: v for k, v in record.items() if not k.startswith('connector')}
        side = 'student' if record['from_student'] else 'teacher'
        recorder = getattr(distiller, f'{side}_recorders').get_recorder(record['recorder'])
        sides[argument] = recorder, as_maps(distiller.get_record(**plain)), connector
    # A connector may make others of them.
    both = [as_maps(given[argument]) for argument in sides]
    (of_S, maps_S, connector), (of_T, maps_T, _) = sides.values()
    if not len(maps_S) == len(maps_T) == len(both[0]) == len(both[1]):
        return
    taken = range(len(maps_S)) if loss.levels is None else loss.levels
    for place, i in enumerate(taken):
        layers = [_level(connector, 'levels', i), _level(loss, 'projectors', place)]
        size = [min(a, b) for a, b in zip(both[0][i].shape[2:], both[1][i].shape[2:], strict=True)]
        report.wired.append(
            Wired(
                term=name,
                student=_named(of_S, i, len(maps_S)),
                student_shape=list(maps_S[i].shape[1:]),
                teacher=_named(of_T, i, len(maps_T)),
                teacher_shape=list(maps_T[i].shape[1:]),
                compared=size if loss.resize else list(both[1][i].shape[2:]),
                learned=sum(p.numel() for layer in layers if layer for p in layer.parameters()),
            )
        )


def _named(recorder: Any, i: int, number: int) -> str:
    names = getattr(recorder, 'level_names', [])
    return names[i] if len(names) == number else str(getattr(recorder, 'source', ''))


def _level(module: Any, key: str, i: int) -> nn.Module | None:
    levels = getattr(module, key, None)
    if isinstance(levels, nn.ModuleList) and i < len(levels):
        return levels[i]
    return module if key == 'levels' and isinstance(module, nn.Module) else None
