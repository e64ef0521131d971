"""Building mmrazor's distiller and refusing what it would let pass.

mmrazor computes the losses that ``loss_forward_mappings`` name and no others,
and mmengine adds up the losses that have "loss" in their names and no others:
a term forgotten in one place, or named in another way, would silently train
nothing.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from kd_plugins.distillers.fitting import (
    KEY,
    begins_with_features,
    check_arguments,
    check_fit,
    check_names,
    check_sources,
    recorder_of,
)
from kd_plugins.losses.base import check_tensors, needed_arguments
from kd_plugins.recorders.building import name_recorders
from kd_plugins.teachers.base import Teacher


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
    check_names(config)
    name_recorders(config)
    with DefaultScope.overwrite_default_scope('mmrazor'):
        try:
            distiller = MODELS.build(config)
        except AssertionError as error:
            # mmrazor's assertions break lines in the middle of sentences.
            raise ValueError(f'{KEY}: {" ".join(str(error).split())}') from error
    check_arguments(distiller)
    check_sources(distiller.student_recorders, student, 'student', teacher)
    sides = [('student', distiller.prepare_from_student, student)]
    if teacher is not None:
        check_sources(distiller.teacher_recorders, teacher, 'teacher', student)
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
    check_fit(distiller, student, teacher)
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
    the rest of the forward of a detector, its RPN, decoder, boxes and masks, would
    run for nobody; that of guided anchoring takes one picture at a time only.
    """
    return begins_with_features(teacher) and _reads_features(distiller, distiller.teacher_recorders)


def ends_with_features(distiller: Any, student: nn.Module) -> bool:
    """Whether the student has done what terms read of it when its features are there.

    Where a detector computes no loss, its heads then have nothing to do, and some cannot run.
    """
    return begins_with_features(student) and _reads_features(distiller, distiller.student_recorders)


def _reads_features(distiller: Any, recorders: Any) -> bool:
    from mmrazor.models.task_modules.recorder import (
        ModuleInputsRecorder,
        ModuleOutputsRecorder,
        ParameterRecorder,
    )

    def suffice(recorder: Any) -> bool:
        if type(recorder) in (ModuleInputsRecorder, ModuleOutputsRecorder):
            return recorder.source.split('.')[0] in ('backbone', 'neck')
        return type(recorder) is ParameterRecorder or getattr(recorder, 'needs', '') == 'features'

    return not distiller.deliveries.deliveries and all(
        suffice(recorder) for recorder in recorders.recorders.values()
    )


def check_student_loss(distiller: Any, key: str) -> None:
    """Refuse recorders of the student's own loss where it is not computed.

    Args:
        distiller: The distiller.
        key: The setting that keeps it from being computed, for the message.

    Raises:
        ValueError: Naming the recorder.
    """
    for name, recorder in distiller.student_recorders.recorders.items():
        if getattr(recorder, 'needs_loss', False):
            raise ValueError(
                f'{key} leaves {KEY}.student_recorders.{name} nothing to record, which is what the '
                "student's own loss is computed on: set model.pseudo_boxes=dict(score=0.4), which "
                "takes the teacher's boxes of such a score for objects, or give all pictures "
                'labels and leave model.calculate_student_loss=True (a loss_weight of 0 switches '
                'a loss of the student off).'
            )


def check_forward(distiller: Any, student: nn.Module, key: str) -> None:
    """Refuse a student whose forward needs objects, where terms read more than its features.

    Args:
        distiller: The distiller.
        student: The student.
        key: The setting that keeps its own loss from being computed, for the message.

    Raises:
        ValueError: Naming the student.
    """
    kinds = {kind.__name__ for kind in type(student).__mro__}
    if 'DeformableDETR' in kinds and not ends_with_features(distiller, student):
        raise ValueError(
            f'{key} has no objects, without which the decoder of the student '
            f'({type(student).__name__}) does not run in training: record its backbone or neck '
            'only, or set model.pseudo_boxes=dict(score=0.4).'
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
    source = str(getattr(recorder_of(distiller, record), 'source', ''))
    return record['from_student'] and 'loss_module' in source.split('.')


def check_records(distiller: Any) -> None:
    """Refuse a step in which a mapped recorder has seen nothing.

    Raises:
        RuntimeError: Naming the recorder and its source.
    """
    for loss, mapping in distiller.loss_forward_mappings.items():
        for argument, record in mapping.items():
            side = 'student' if record['from_student'] else 'teacher'
            recorder = recorder_of(distiller, record)
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
    for loss, mapping in distiller.loss_forward_mappings.items():
        for argument, record in mapping.items():
            asks = getattr(recorder_of(distiller, record), 'question', None)
            # What it answers has the graph of what it is asked about.
            where = record if asks is None else dict(recorder=asks, from_student=True)
            if not where['from_student'] or argument == 'gt_labels':
                continue
            for name, of_input, x in _read_of(distiller, where):
                if not isinstance(x, Tensor) or not x.is_floating_point() or x.requires_grad:
                    continue
                if _learns(student, name, of_input):
                    raise RuntimeError(
                        f'{KEY}.distill_losses.{loss}: {argument} reads {name!r} of the student, '
                        f'whose {"input" if of_input else "output"} has no graph, so that the term '
                        'would train nothing of it: a part around it is checkpointed '
                        '(with_cp=True, activation_checkpointing), runs without gradients, or is '
                        'frozen up to there (frozen_stages). Read the output of the whole part, do '
                        'not checkpoint it, or leave out what is frozen (items of '
                        'kd_plugins.Features).'
                    )


def _read_of(distiller: Any, record: Mapping[str, Any]) -> Iterator[tuple[str, bool, Any]]:
    """Yield the module that each part of a record is of, and whether it is an input of it."""
    from mmrazor.models.task_modules.recorder import ModuleInputsRecorder, ModuleOutputsRecorder

    recorder = recorder_of(distiller, record)
    value = distiller.get_record(**{k: v for k, v in record.items() if 'connector' not in k})
    values = value if isinstance(value, (tuple, list)) else [value]
    if type(recorder) is ModuleOutputsRecorder:
        places = [(recorder.source, False)] * len(values)
    elif type(recorder) is ModuleInputsRecorder and not record.get('data_idx'):
        # Of a loss module the others are labels.
        places = [(recorder.source, True)]
    else:
        places = getattr(recorder, 'level_places', [])
        if record.get('data_idx') is not None:
            places = [places[record['data_idx']]] if places else []
    for (name, of_input), x in zip(places, values, strict=False):
        yield name, of_input, x


def _learns(student: nn.Module, name: str, of_input: bool) -> bool:
    """Whether a module of the student has something that learns or, of its input, one before it."""
    if not of_input:
        return any(p.requires_grad for p in student.get_submodule(name).parameters())
    for other, module in student.named_modules():
        if other == name:
            return False
        if any(p.requires_grad for p in module.parameters(recurse=False)):
            return True
    return False


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
