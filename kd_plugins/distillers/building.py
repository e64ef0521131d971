"""Building mmrazor's distiller and refusing what it would let pass.

mmrazor computes the losses that ``loss_forward_mappings`` name and no others,
and mmengine adds up the losses that have "loss" in their names and no others:
a term forgotten in one place, or named in another way, would silently train
nothing.
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from kd_plugins.distillers.protocols import check_protocols
from kd_plugins.losses.base import LogitsLoss, check_tensors, needed_arguments
from kd_plugins.networks import classes_of, places_of_queries
from kd_plugins.recorders.building import name_recorders
from kd_plugins.teachers.base import Teacher

KEY = 'model.distiller'
#: Parts of RoI heads that see whole pictures.
_OF_PICTURES = ('roi_head.semantic_head', 'roi_head.glbctx_head')


def build_distiller(cfg: Mapping[str, Any], student: nn.Module, teacher: nn.Module | None) -> Any:
    """Build the distiller and connect its recorders to both networks.

    Args:
        cfg: A config in mmrazor's vocabulary; ``type`` may be left out.
            Recorders, connectors and losses are looked up in mmrazor's scope,
            so that their short names are found.
        student: The network that ``student_recorders`` read.
        teacher: The network that ``teacher_recorders`` read; None for none.

    Raises:
        ValueError: If a term would train nothing, or a recorder reads nothing.
    """
    config = ConfigDict(**cfg)
    config.setdefault('type', 'mmrazor.ConfigurableDistiller')
    _check_names(config)
    name_recorders(config)
    with DefaultScope.overwrite_default_scope('mmrazor'):
        try:
            distiller = MODELS.build(config)
        except AssertionError as error:
            # mmrazor's assertions break lines in the middle of sentences.
            raise ValueError(f'{KEY}: {" ".join(str(error).split())}') from error
    _check_arguments(distiller)
    _check_sources(distiller.student_recorders, student, 'student', teacher)
    sides = [('student', distiller.prepare_from_student, student)]
    if teacher is not None:
        _check_sources(distiller.teacher_recorders, teacher, 'teacher', student)
        sides.append(('teacher', distiller.prepare_from_teacher, teacher))
    elif not all(
        getattr(each, 'stored', False) for each in distiller.teacher_recorders.recorders.values()
    ):
        raise ValueError(
            f'{KEY}.teacher_recorders={sorted(distiller.teacher_recorders.recorders)} would record '
            'of model.teacher=None: give a teacher, or leave them out.'
        )
    for side, prepare, network in sides:
        try:
            prepare(network)
        except ValueError as error:
            raise ValueError(f'{KEY}.{side}_recorders: {error}') from error
    _check_questions(distiller)
    _check_fields(distiller)
    _check_proposals(distiller)
    _check_queries(distiller, student, teacher)
    _check_classes(distiller, student, teacher)
    check_protocols(distiller, student, teacher, KEY)
    _check_specs(distiller)
    return distiller


def ask_teacher(distiller: Any, teacher: Teacher) -> None:
    """Let recorders of the teacher ask it about what was recorded from the student.

    Such a recorder has ``question``, the name of a student's recorder, and a
    method ``answer(network, record)``, which returns what it records: the
    teacher's head on the student's features, say. The record keeps its graph.
    Where the recorder has a ``connector``, its name, the record passes it before.
    """
    for recorder in distiller.teacher_recorders.recorders.values():
        if hasattr(recorder, 'question'):
            asked = distiller.student_recorders.get_recorder(recorder.question)
            connector = getattr(recorder, 'connector', None)
            for record in asked.data_buffer:
                if connector is not None:
                    record = distiller.connectors[connector](record)
                answer = teacher.answer(partial(recorder.answer, record=record))
                recorder.data_buffer.append(answer)


def features_suffice(distiller: Any, teacher: nn.Module | None) -> bool:
    """Whether what the teacher's recorders read is done when its features are.

    So it is where they read its backbone or neck, or ask its heads later. Then
    the rest of the forward of a two-stage detector, its RPN, boxes and masks,
    would run for nobody.
    """
    from mmrazor.models.task_modules.recorder import (
        ModuleInputsRecorder,
        ModuleOutputsRecorder,
        ParameterRecorder,
    )

    def suffice(recorder: Any) -> bool:
        if type(recorder) in (ModuleInputsRecorder, ModuleOutputsRecorder):
            return recorder.source.split('.')[0] in ('backbone', 'neck')
        return type(recorder) is ParameterRecorder or getattr(recorder, 'needs', '') == 'features'

    recorders = distiller.teacher_recorders.recorders.values()
    return (
        _is_two_stage(teacher)
        and not distiller.deliveries.deliveries
        and all(suffice(recorder) for recorder in recorders)
    )


def check_student_loss(distiller: Any) -> None:
    """Refuse recorders of the student's own loss where it is not computed.

    Raises:
        ValueError: Naming the recorder.
    """
    for name, recorder in distiller.student_recorders.recorders.items():
        if getattr(recorder, 'needs_loss', False):
            raise ValueError(
                f'model.calculate_student_loss=False leaves {KEY}.student_recorders.{name} '
                "nothing to record, which is what the student's own loss is computed on: leave it "
                'True (a loss_weight of 0 switches a loss of the student off).'
            )


def mappings_without_labels(distiller: Any, key: str) -> dict[str, Any]:
    """Return ``loss_forward_mappings`` for pictures that the student's own loss does not see.

    They leave out what only that loss is given, the labels, where a term can do without.

    Args:
        distiller: The distiller.
        key: The setting that keeps that loss from them, for the message.

    Raises:
        ValueError: Naming the term that needs them.
    """
    mappings = {}
    for name, mapping in distiller.loss_forward_mappings.items():
        loss = distiller.distill_losses[name]
        missing = [argument for argument, of in mapping.items() if _is_loss_input(distiller, of)]
        for argument in missing:
            if argument in needed_arguments(loss):
                instead = getattr(loss, 'without_labels', 'take a term that needs none')
                raise ValueError(
                    f'{key} gives {KEY}.distill_losses.{name}={type(loss).__name__} no labels, '
                    f'and it needs {argument}: {instead}.'
                )
        mappings[name] = {k: of for k, of in mapping.items() if k not in missing}
    return mappings


def _is_loss_input(distiller: Any, record: Mapping[str, Any]) -> bool:
    """Whether something is recorded only where the student computes a loss of its own."""
    source = str(getattr(_recorder(distiller, record), 'source', ''))
    return record['from_student'] and 'loss_module' in source.split('.')


def check_records(distiller: Any) -> None:
    """Refuse a step in which a mapped recorder has seen nothing.

    Raises:
        RuntimeError: Naming the recorder and its source.
    """
    for loss, mapping in distiller.loss_forward_mappings.items():
        for argument, record in mapping.items():
            side = 'student' if record['from_student'] else 'teacher'
            recorder = _recorder(distiller, record)
            if len(recorder.data_buffer) <= record.get('record_idx', 0):
                if side == 'student' and 'task_heads' in recorder.source.split('.'):
                    raise RuntimeError(
                        f'{KEY}.{side}_recorders.{record["recorder"]}.source={recorder.source!r} '
                        'was not called: a MultiTaskHead shows it the pictures that have a label '
                        'of its task, and this batch has none; record logits with dict(type='
                        "'kd_plugins.TaskLogits', task=...) on both sides, for a term that needs "
                        'no labels, such as kd_plugins.KDLoss.'
                    )
                raise RuntimeError(
                    f'{KEY}.{side}_recorders.{record["recorder"]}.source={recorder.source!r} was '
                    f'called {len(recorder.data_buffer)} times in this step, too few for '
                    f'{loss}.{argument}: name a module that the forward pass of the {side} calls '
                    '(the teacher runs its forward only, none of its losses).'
                )


@torch.compiler.disable
def check_graphs(distiller: Any, student: nn.Module) -> None:
    """Refuse a term whose record of the student has no graph although it should.

    Reentrant checkpointing (``with_cp`` of a backbone, mmengine's
    ``activation_checkpointing``) runs a part without a graph, and anew in the backward
    pass: what was recorded inside of it would train nothing of the student.

    Raises:
        RuntimeError: Naming the module.
    """
    from mmrazor.models.task_modules.recorder import ModuleOutputsRecorder

    for loss, mapping in distiller.loss_forward_mappings.items():
        for argument, record in mapping.items():
            recorder = _recorder(distiller, record)
            plain = [recorder.source] if type(recorder) is ModuleOutputsRecorder else []
            sources = getattr(recorder, 'outputs_of', plain)
            if not record['from_student'] or not sources:
                continue
            where = {k: v for k, v in record.items() if not k.startswith('connector')}
            value = distiller.get_record(**where)
            values = value if isinstance(value, (tuple, list)) else [value]
            for i, x in enumerate(values):
                name = sources[0] if len(sources) != len(values) else sources[i]
                if not isinstance(x, Tensor) or not x.is_floating_point() or x.requires_grad:
                    continue
                if name and any(p.requires_grad for p in student.get_submodule(name).parameters()):
                    raise RuntimeError(
                        f'{KEY}.distill_losses.{loss}: {argument} reads {name!r} of the student, '
                        'whose output has no graph, so that the term would train nothing of it: a '
                        'part around it is checkpointed (with_cp=True, activation_checkpointing), '
                        'runs without gradients, or is frozen up to there (frozen_stages). Read '
                        'the output of the whole part, do not checkpoint it, or leave out what is '
                        'frozen (items of kd_plugins.Features).'
                    )


def compute_losses(distiller: Any) -> dict[str, Tensor]:
    """Return the values of the terms by name.

    Raises:
        ValueError, RuntimeError: What a term or its connector raises, naming the term; also where
            it takes a tensor and is given all that a module returns.
    """
    try:
        return distiller.compute_distill_losses()
    except (ValueError, RuntimeError, AttributeError, TypeError) as error:
        loops = (
            frame.f_locals.get('loss_name')
            for frame, _ in traceback.walk_tb(error.__traceback__)
            if frame.f_code.co_name == 'compute_distill_losses'
        )
        name = next((name for name in loops if name is not None), None)
        if name is not None and type(error) in (AttributeError, TypeError):
            _check_given(distiller, name, error)
        if name is None or type(error) not in (ValueError, RuntimeError):
            raise  # torch's own kinds, such as that of memory, mean something
        raise type(error)(f'{KEY}.distill_losses.{name}: {error}') from error


def _check_given(distiller: Any, name: str, error: Exception) -> None:
    """Tell where a term that failed, mmrazor's say, was given all that a module returns.

    Raises:
        ValueError: Naming the term, its argument and what it was given.
    """
    for argument, record in distiller.loss_forward_mappings[name].items():
        plain = {k: v for k, v in record.items() if not k.startswith('connector')}
        value = distiller.get_record(**plain)
        if not isinstance(value, (tuple, list)) or type(value).__name__ not in str(error):
            continue
        taker = distiller.distill_losses[name]
        if 'connector' in record:
            taker = distiller.connectors[record['connector']]
        try:
            check_tensors(type(taker).__name__, **{argument: value})
        except ValueError as found:
            raise ValueError(f'{KEY}.distill_losses.{name}: {found}') from error


def reset_records(distiller: Any) -> None:
    """Let go of what was recorded: it holds the graph of the whole step."""
    for manager in (distiller.student_recorders, distiller.teacher_recorders):
        for recorder in manager.recorders.values():
            recorder.reset_data_buffer()


def _check_names(cfg: ConfigDict) -> None:
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


def _check_arguments(distiller: Any) -> None:
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


def _check_sources(manager: Any, network: nn.Module, side: str, other: nn.Module | None) -> None:
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
            recorder = _recorder(distiller, record)
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
            for source in _sources(_recorder(distiller, record)):
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
            for source in _sources(_recorder(distiller, record)):
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


def _recorder(distiller: Any, record: Mapping[str, Any]) -> Any:
    """Return the recorder that an argument of a term comes from."""
    side = 'student' if record['from_student'] else 'teacher'
    return getattr(distiller, f'{side}_recorders').get_recorder(record['recorder'])


def _is_two_stage(network: nn.Module | None) -> bool:
    """Whether it is a two-stage detector of mmdet whose forward begins with its features."""
    for kind in type(network).__mro__:
        if '_forward' in vars(kind):
            return kind.__name__ == 'TwoStageDetector' and kind.__module__.startswith('mmdet.')
    return False


def _check_specs(distiller: Any) -> None:
    """Let terms that know what their records will be like refuse a pair of networks."""
    for name, loss in distiller.distill_losses.items():
        if not hasattr(loss, 'check_specs'):
            continue
        specs = {}
        for argument, record in distiller.loss_forward_mappings[name].items():
            spec = getattr(_recorder(distiller, record), 'spec', None)
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
            recorder = _recorder(distiller, record)
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
