"""The teacher that a model of upstream keeps by itself, as mmdet's LD detectors do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from kd_plugins.files.weights import load_weights
from kd_plugins.teachers.classes import classes_in
from kd_plugins.teachers.input import TeacherInput
from kd_plugins.teachers.network import NetworkTeacher


def upstreams_teacher(model: nn.Module) -> NetworkTeacher | None:
    """Return what asks a model's own ``teacher_model``, None if it has none.

    It gets the student's input as it is, whatever its config declares.
    """
    network = vars(model).get('teacher_model')
    preprocessor = getattr(model, 'data_preprocessor', None)
    if not isinstance(network, nn.Module) or preprocessor is None:
        return None
    training = network.training
    teacher = NetworkTeacher(network, TeacherInput(preprocessor, None), preprocessor, owned=False)
    network.train(training)
    return teacher


def check_upstreams_teacher(model: nn.Module, cfg: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Hold such a teacher to what every teacher of this package is held to.

    Upstream loads what fits of ``teacher_ckpt``, and nothing where there is none.

    Args:
        model: The model that keeps it.
        cfg: The model's config.

    Returns:
        The names of its classes, None where its checkpoint names none.

    Raises:
        ValueError: If its weights do not fit, or its head cannot be compared with
            the student's.
        FileNotFoundError: If there is no such checkpoint.
    """
    network = vars(model).get('teacher_model')
    if not isinstance(network, nn.Module):
        return None
    student, teacher = (getattr(each, 'bbox_head', None) for each in (model, network))
    for name in ('num_classes', 'reg_max'):
        ours, theirs = getattr(student, name, None), getattr(teacher, name, None)
        if None not in (ours, theirs) and ours != theirs:
            raise ValueError(
                f'model.bbox_head.{name}={ours!r}, and that of model.teacher_config is {theirs!r}: '
                'LD compares both heads bin by bin and class by class, so give both the same.'
            )
    path = cfg.get('teacher_ckpt')
    if path is None:
        raise ValueError(
            'model.teacher_ckpt=None leaves the teacher without weights, and an untrained teacher '
            'teaches noise: give the checkpoint of a trained teacher.'
        )
    return classes_in(load_weights(network, path))
