"""The teacher that a model of upstream keeps by itself, as mmdet's LD detectors do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.model import BaseModel
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
    if not isinstance(network, BaseModel):
        network = _whole(network, model)
    teacher = NetworkTeacher(network, TeacherInput(preprocessor, None), preprocessor, owned=False)
    network.train(training)
    return teacher


def _whole(parts: nn.Module, model: Any) -> nn.Module:
    """Return the detector of these parts, as mmdet's LAD keeps them, for whoever asks the whole."""
    from mmdet.models.detectors.base import BaseDetector
    from mmdet.models.detectors.single_stage import SingleStageDetector

    whole = SingleStageDetector.__new__(SingleStageDetector)
    BaseDetector.__init__(whole, model.data_preprocessor)
    for name, part in parts.named_children():
        whole.add_module(name, part)
    whole.train_cfg, whole.test_cfg = model.train_cfg, model.test_cfg
    return whole.train(parts.training)


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
    if hasattr(student, 'reg_max') and not hasattr(teacher, 'reg_max'):
        raise ValueError(
            f'model.teacher_config has a {type(teacher).__name__}, which predicts no distributions '
            f'over the sides of boxes, and the {type(student).__name__} of model.bbox_head learns '
            'from them: give a GFL.'
        )
    strides = [getattr(getattr(h, 'prior_generator', None), 'strides', None)
               for h in (student, teacher)]  # fmt: skip
    if None not in strides and strides[0] != strides[1]:
        raise ValueError(
            f'the strides of model.bbox_head are {_said(strides[0])} and those of its teacher '
            f'{_said(strides[1])}: both are compared place by place, so give both the same.'
        )
    for name in ('num_classes', 'reg_max'):
        ours, theirs = getattr(student, name, None), getattr(teacher, name, None)
        if None not in (ours, theirs) and ours != theirs:
            raise ValueError(
                f'model.bbox_head.{name}={ours!r}, and that of its teacher is {theirs!r}: '
                'they are compared bin by bin and class by class, so give both the same.'
            )
    path = cfg.get('teacher_ckpt')
    if path is None:
        raise ValueError(
            'model.teacher_ckpt=None leaves the teacher without weights, and an untrained teacher '
            'teaches noise: give the checkpoint of a trained teacher.'
        )
    return classes_in(load_weights(network, path))


def _said(strides: Any) -> list[int]:
    return [int(max(pair)) if isinstance(pair, tuple) else int(pair) for pair in strides]
