"""What of a distiller cannot be right: names, sources and pairs that mmrazor would let pass."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.config import ConfigDict
from torch import nn

from kd_plugins.distillers.protocols import check_protocols
from kd_plugins.losses.base import LogitsLoss, needed_arguments
from kd_plugins.networks import classes_of, places_of_queries

KEY = 'model.distiller'
#: Parts of RoI heads that see whole pictures.
_OF_PICTURES = ('roi_head.semantic_head', 'roi_head.glbctx_head')


def check_names(cfg: ConfigDict) -> None:
    """Refuse terms without records, records without terms, and names that reach no loss."""
    losses = cfg.get('distill_losses') or {}
    mappings = cfg.get('loss_forward_mappings') or {}
    for name in losses:
        if 'loss' not in name:
            raise ValueError(
                f'{KEY}.distill_losses.{name} would never reach the total loss, because mmengine '
                f'adds up the names that contain "loss": call it loss_{name}.'
            )
        if name not in mappings:
            raise ValueError(
                f'{KEY}.distill_losses.{name} is mapped to nothing and would never be computed: '
                f'add {KEY}.loss_forward_mappings.{name} with the records it takes.'
            )
    for name, mapping in mappings.items():
        if name not in losses:
            raise ValueError(
                f'{KEY}.loss_forward_mappings.{name} belongs to no loss'
                f'{_suggestion(name, losses)}: distill_losses has {sorted(losses)}.'
            )
        for argument, record in mapping.items():
            _check_record(cfg, f'{KEY}.loss_forward_mappings.{name}.{argument}', record)


def _check_record(cfg: ConfigDict, key: str, record: Mapping[str, Any]) -> None:
    if not isinstance(record.get('from_student'), bool) or 'recorder' not in record:
        raise ValueError(
            f'{key}={dict(record)!r} needs recorder=<name> and from_student=True or False.'
        )
    side = 'student' if record['from_student'] else 'teacher'
    known = cfg.get(f'{side}_recorders') or {}
    if record['recorder'] not in known:
        raise ValueError(
            f'{key}.recorder={record["recorder"]!r} is not one of {side}_recorders'
            f'{_suggestion(record["recorder"], known)}: they are {sorted(known)}.'
        )


def check_arguments(distiller: Any) -> None:
    """Refuse terms that lack an argument, or are given one that they do not take."""
    for name, loss in distiller.distill_losses.items():
        for argument in needed_arguments(loss):
            if argument not in distiller.loss_forward_mappings[name]:
                raise ValueError(
                    f'{KEY}.loss_forward_mappings.{name} lacks {argument}, which '
                    f'{type(loss).__name__} needs{_instead(loss, argument)}.'
                )


def _instead(loss: nn.Module, argument: str) -> str:
    """Say what a term can do without labels, if there is something."""
    instead = getattr(loss, 'without_labels', None) if argument == 'gt_labels' else None
    return f': map it, or {instead}' if instead else ''


def check_sources(manager: Any, network: nn.Module, side: str, other: nn.Module | None) -> None:
    """Refuse recorders of modules that a network does not have."""
    from mmrazor.models.task_modules.recorder import ModuleOutputsRecorder, ParameterRecorder

    for name, recorder in manager.recorders.items():
        if hasattr(recorder, 'check_source'):
            recorder.check_source(network, f'{KEY}.{side}_recorders.{name}', side, other)
            continue
        if isinstance(recorder, ModuleOutputsRecorder):
            known = {key for key, _ in network.named_modules()}
        elif isinstance(recorder, ParameterRecorder):
            known = {key for key, _ in network.named_parameters()}
        else:
            continue
        if recorder.source not in known:
            raise ValueError(
                f'{KEY}.{side}_recorders.{name}.source={recorder.source!r} is not in the {side} '
                f'({type(network).__name__}){_suggestion(recorder.source, known)}: give the name '
                f'of one of its {_what(recorder, network, known)}.'
            )
        module = dict(network.named_modules()).get(recorder.source)
        if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            inside = [f'{recorder.source}.{name}' for name, _ in module.named_children()]
            raise ValueError(
                f'{KEY}.{side}_recorders.{name}.source={recorder.source!r} is a '
                f'{type(module).__name__}, which holds modules and is never called itself: name '
                f'one of them{f", such as {inside[0]!r}" if inside else ""}.'
            )


def _what(recorder: Any, network: nn.Module, known: Iterable[str]) -> str:
    """Return what a recorder reads of a network, with an example that it has."""
    from mmrazor.models.task_modules.recorder import ParameterRecorder

    if isinstance(recorder, ParameterRecorder):
        return f'parameters, such as {[*known][-1]!r}'
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    of_classifier = [name for name in linear if name.startswith('head.')]
    parts = [name for name in ('neck', 'backbone') if name in known]
    example = next(iter([*of_classifier[-1:], *parts, *linear[-1:], *sorted(known)]), '')
    return f'modules, such as {example!r}'


def check_fit(distiller: Any, student: nn.Module, teacher: nn.Module | None) -> None:
    """Refuse terms that would compare what is no pair, once the recorders know both networks.

    Raises:
        ValueError: If what a term gets of the student cannot be compared with what it gets of
            the teacher.
    """
    _check_questions(distiller)
    _check_fields(distiller)
    _check_proposals(distiller)
    _check_queries(distiller, student, teacher)
    _check_classes(distiller, student, teacher)
    check_protocols(distiller, student, teacher, KEY)
    _check_specs(distiller)


def _check_questions(distiller: Any) -> None:
    """Refuse recorders of the teacher that ask about something that nobody records."""
    asked = distiller.student_recorders.recorders
    for name, recorder in distiller.teacher_recorders.recorders.items():
        if not hasattr(recorder, 'question'):
            continue
        key = f'{KEY}.teacher_recorders.{name}'
        if recorder.question not in asked:
            raise ValueError(
                f'{key}.question={recorder.question!r} is not one of student_recorders'
                f'{_suggestion(recorder.question, asked)}: they are {sorted(asked)}.'
            )
        spec = getattr(asked[recorder.question], 'spec', None)
        connector = getattr(recorder, 'connector', None)
        if connector is not None:
            if connector not in distiller.connectors:
                raise ValueError(
                    f'{key}.connector={connector!r} is not one of connectors'
                    f'{_suggestion(connector, distiller.connectors)}: they are '
                    f'{sorted(distiller.connectors)}.'
                )
            spec = _connected_spec(distiller, dict(connector=connector), spec)
        if hasattr(recorder, 'check_question'):
            recorder.check_question(key, asked[recorder.question], spec)


def _check_fields(distiller: Any) -> None:
    """Let recorders of records refuse a mapping that takes something else of them."""
    for name, loss in distiller.distill_losses.items():
        for argument, record in distiller.loss_forward_mappings[name].items():
            recorder = recorder_of(distiller, record)
            if hasattr(recorder, 'check_field'):
                recorder.check_field(
                    f'{KEY}.loss_forward_mappings.{name}.{argument}',
                    record.get('data_idx'),
                    whole=hasattr(loss, 'check_specs'),
                )


def _check_proposals(distiller: Any) -> None:
    """Refuse a comparison of what both RoI heads say, each of proposals of its own.

    Their rows are as many, so that nothing else would tell.
    """
    for name, mapping in distiller.loss_forward_mappings.items():
        sources: dict[bool, str] = {}
        for record in mapping.values():
            for source in _sources(recorder_of(distiller, record)):
                if source.startswith('roi_head.') and not source.startswith(_OF_PICTURES):
                    sources[record['from_student']] = source
        if len(sources) == 2:
            raise ValueError(
                f'{KEY}.distill_losses.{name} would compare {sources[True]!r} of the student with '
                f'{sources[False]!r} of the teacher row by row, but each of them sees proposals of '
                "its own: record both with dict(type='kd_plugins.RoIHead'), whose teacher is asked "
                'about the RoIs of the student (see configs/_base_/distill/dkd_rois.py).'
            )


def _check_queries(distiller: Any, student: nn.Module, teacher: nn.Module | None) -> None:
    """Refuse a comparison of what queries say, which every network has of its own.

    DETR and its kin, Mask2Former, Sparse R-CNN: both sides have as many, in no common order.
    """
    sides = dict(student=places_of_queries(student), teacher=places_of_queries(teacher))
    for name, mapping in distiller.loss_forward_mappings.items():
        sources = {}
        for record in mapping.values():
            side = 'student' if record['from_student'] else 'teacher'
            if _may_match(distiller, record):
                continue
            for source in _sources(recorder_of(distiller, record)):
                if source.split('.')[0] in sides[side]:
                    sources[side] = source
        if len(sources) == 2:
            raise ValueError(
                f'{KEY}.distill_losses.{name} would compare {sources["student"]!r} of the student '
                f'with {sources["teacher"]!r} of the teacher query by query, but each network has '
                'learned queries of its own, in no common order: compare what has a place in the '
                "picture, 'backbone' or 'neck', or match the queries in a connector."
            )


def _sources(recorder: Any) -> list[str]:
    """Return the modules that a recorder reads."""
    return str(getattr(recorder, 'source', '')).split(', ')


def _may_match(distiller: Any, record: Mapping[str, Any]) -> bool:
    """Whether a connector of the user's stands between, which may match queries; ours do not."""
    if 'connector' not in record:
        return False
    package = type(distiller.connectors[record['connector']]).__module__.split('.')[0]
    return package not in ('kd_plugins', 'mmrazor')


def recorder_of(distiller: Any, record: Mapping[str, Any]) -> Any:
    """Return the recorder that an argument of a term comes from."""
    side = 'student' if record['from_student'] else 'teacher'
    return getattr(distiller, f'{side}_recorders').get_recorder(record['recorder'])


#: Detectors of mmdet whose forward makes features and gives them to heads, and does no more.
_WITH_HEADS = (
    'TwoStageDetector', 'SingleStageDetector', 'SingleStageInstanceSegmentor',
    'DetectionTransformer', 'MaskFormer',
)  # fmt: skip


def begins_with_features(network: nn.Module | None) -> bool:
    """Whether it is a detector of mmdet whose forward is its features, then its heads."""
    for kind in type(network).__mro__:
        if '_forward' in vars(kind):
            return kind.__name__ in _WITH_HEADS and kind.__module__.startswith('mmdet.')
    return False


def _check_specs(distiller: Any) -> None:
    """Let terms that know what their records will be like refuse a pair of networks."""
    for name, loss in distiller.distill_losses.items():
        if not hasattr(loss, 'check_specs'):
            continue
        specs = {}
        for argument, record in distiller.loss_forward_mappings[name].items():
            spec = getattr(recorder_of(distiller, record), 'spec', None)
            if record.get('data_idx') is not None:
                spec = None
            if record.get('connector') is not None:
                spec = _connected_spec(distiller, record, spec)
            specs[argument] = spec
        loss.check_specs(f'{KEY}.distill_losses.{name}', **specs)


def _connected_spec(distiller: Any, record: Mapping[str, Any], spec: Any) -> Any:
    """Return what a connector will give, None if it cannot tell; it may refuse the record."""
    name = record['connector']
    connector = distiller.connectors[name]
    if not hasattr(connector, 'check_spec'):
        return None
    spec = connector.check_spec(f'{KEY}.connectors.{name}', spec)
    return spec if record.get('connector_idx') is None else None


def _check_classes(distiller: Any, student: nn.Module, teacher: nn.Module | None) -> None:
    for name, loss in distiller.distill_losses.items():
        if not isinstance(loss, LogitsLoss):
            continue
        said, classes = [], set()
        for argument in ('preds_S', 'preds_T'):
            record = distiller.loss_forward_mappings[name][argument]
            side, network = ('student', student) if record['from_student'] else ('teacher', teacher)
            recorder = recorder_of(distiller, record)
            number = _num_classes(recorder, network)
            # Where it is not known, the first step tells.
            if number is not None and 'connector' not in record:
                source = getattr(recorder, 'classifier', recorder.source)
                said.append(f'{source!r} of the {side} has {number} classes')
                classes.add(number)
        if len(classes) == 2:
            raise ValueError(
                f'{KEY}.distill_losses.{name} would compare different classes: {", ".join(said)}: '
                'give a teacher and a student of the same ones.'
            )
        for number in classes:
            loss.tau.check_classes(f'{KEY}.distill_losses.{name}.tau', number)


def _num_classes(recorder: Any, network: nn.Module | None) -> int | None:
    """Return of how many classes a recorder gives logits: it says so, or reads a classifier."""
    from mmrazor.models.task_modules.recorder import ModuleOutputsRecorder

    read = None
    if type(recorder) is ModuleOutputsRecorder and network is not None:
        read = classes_of(network, recorder.source)
    return getattr(recorder, 'num_classes', None) if read is None else read


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f' (did you mean {close[0]!r}?)' if close else ''
