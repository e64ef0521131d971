"""Building a teacher from what a config says."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import nn

from kd_plugins import checks
from kd_plugins.files.weights import load_weights
from kd_plugins.networks import (
    NetworkCfg,
    build_network,
    forbid_inplace,
    initialisations,
    resolve_network,
)
from kd_plugins.optim.precision import as_dtype
from kd_plugins.teachers.base import Teacher
from kd_plugins.teachers.checkpoints import CheckpointTeacher, CheckpointTree
from kd_plugins.teachers.classes import choose, classes_in, keep_classes
from kd_plugins.teachers.input import InputSize, TeacherInput, declares_input
from kd_plugins.teachers.network import NetworkTeacher
from kd_plugins.teachers.snapshot import SnapshotTeacher


def build_teacher(
    cfg: NetworkCfg | str | None,
    ckpt: str | Sequence[str] | None = None,
    *,
    preprocessor: nn.Module,
    student: BaseModel | None = None,
    allow_random: bool = False,
    inplace: bool = False,
    input_size: InputSize | None = None,
    dtype: str | None = None,
    channels_last: bool = False,
    compile: bool | Mapping[str, Any] = False,
    class_map: Sequence[int | str] | None = None,
) -> Teacher:
    """Build the teacher of an algorithm, with every one of its weights.

    Args:
        cfg: Its config, ``dict(cfg_path=...)`` with changes beside it, a built
            model, ``'snapshot'`` for the student as it was at some moment, or None
            for no teacher.
        ckpt: Its checkpoint, or several of its architecture, which teach together.
        preprocessor: The student's, which its input comes from.
        student: The student, for a snapshot of it.
        allow_random: Accept a teacher without any weights.
        inplace: Leave its in-place activations as they are.
        input_size: Height and width to resize its input to, or ``dict(scale=...)``.
        dtype: What it computes in.
        channels_last: Whether it computes in torch's channels-last layout.
        compile: Whether to compile it, or arguments of ``torch.compile``.
        class_map: Its class, by name or index, for every class of the student.

    Raises:
        ValueError: If it would teach noise, or a setting is none.
        FileNotFoundError: If there is no such checkpoint.
    """
    if cfg is None or isinstance(cfg, str):
        settings = dict(
            teacher_ckpt=ckpt, teacher_input_size=input_size, teacher_dtype=dtype,
            teacher_channels_last=channels_last, teacher_compile=compile,
            teacher_class_map=class_map,
        )  # fmt: skip
        for key, value in settings.items():
            if value:
                raise ValueError(
                    f'model.{key}={value!r} is of a teacher, and model.teacher={cfg!r}: leave it '
                    'out, or give the teacher.'
                )
        if cfg is None:
            return Teacher()
        if cfg != 'snapshot' or student is None:
            raise checks.refuse(
                'model.teacher', cfg, "the config of a network, 'snapshot', or None"
            )
        return SnapshotTeacher(student, preprocessor)
    kind = torch.float32 if dtype == 'float32' else as_dtype(dtype, 'model.teacher_dtype')
    network: BaseModel
    if ckpt is None or isinstance(ckpt, str):
        build: type[NetworkTeacher] = NetworkTeacher
        network, weights, declared, classes = _network(cfg, ckpt, allow_random, class_map)
    else:
        build = CheckpointTeacher
        network, weights, declared, classes = _tree(cfg, ckpt, class_map)
    if not inplace:
        forbid_inplace(network)
    own = network.data_preprocessor if declared else None
    return build(
        network,
        TeacherInput(preprocessor, own, input_size),
        preprocessor,
        weights,
        kind,
        channels_last,
        dict(compile) if isinstance(compile, Mapping) else {} if compile else None,
        owned=not isinstance(cfg, BaseModel),
        classes=classes,
        class_map=class_map,
    )


#: A network, the source of its weights, whether it declares its input, and its classes' names.
Built = tuple[BaseModel, str | None, bool, tuple[str, ...] | None]


def _tree(cfg: NetworkCfg, ckpts: Sequence[str], class_map: Sequence[int | str] | None) -> Built:
    """Return a network for every checkpoint as one tree; see :func:`_network`."""
    paths = isinstance(ckpts, (list, tuple)) and all(isinstance(each, str) for each in ckpts)
    if not paths or not ckpts or len({*ckpts}) < len(ckpts):
        raise checks.refuse(
            'model.teacher_ckpt', ckpts, 'a file, or a list of different files, the earliest first'
        )
    _check_order(ckpts)
    built = [_network(copy.deepcopy(cfg), ckpt, False, class_map) for ckpt in ckpts]
    networks, _, declared, classes = zip(*built, strict=True)
    named = [(ckpt, names) for ckpt, names in zip(ckpts, classes, strict=True) if names]
    for ckpt, names in named[1:]:
        if names != named[0][1]:
            raise ValueError(
                f'model.teacher_ckpt: {ckpt!r} names other classes, or in another order, than '
                f'{named[0][0]!r}: give checkpoints of one training.'
            )
    known = named[0][1] if named else None
    return CheckpointTree(networks, ckpts), ', '.join(ckpts), declared[0], known


def _check_order(ckpts: Sequence[str]) -> None:
    """Refuse checkpoints of one training of which a later one comes first, as a shell sorts them.

    Terms know them by their places.
    """
    names = [re.fullmatch(r'(.*\D)(\d+)\.pth', ckpt) for ckpt in ckpts]
    for before, after in pairwise(names):
        if before and after and before[1] == after[1] and int(before[2]) > int(after[2]):
            raise ValueError(
                f'model.teacher_ckpt names {before[0]!r} before {after[0]!r}: give the earliest '
                'first.'
            )


def _network(
    cfg: NetworkCfg, ckpt: str | None, allow_random: bool, class_map: Sequence[int | str] | None
) -> Built:
    """Return the network with its weights, and what is known of it."""
    if isinstance(cfg, BaseModel):
        if class_map is not None:
            raise ValueError(
                'model.teacher_class_map changes the last layers of the teacher, and '
                'model.teacher is a network that somebody else has built: give its config, or '
                'call kd_plugins.teachers.classes.keep_classes on a copy.'
            )
        classes = None if ckpt is None else classes_in(load_weights(cfg, ckpt))
        return cfg, ckpt, declares_input(cfg.data_preprocessor), classes
    resolved, pretrained = resolve_network(cfg, 'model.teacher')
    for init_cfg in initialisations(resolved.get('init_cfg')):
        if init_cfg['type'] == 'Pretrained':
            # Whatever else it says would be overwritten.
            resolved.pop('init_cfg', None)
            pretrained = init_cfg['checkpoint']
    if isinstance(resolved.get('pretrained'), str):
        # The older spelling of the same, of mmpretrain's classifiers, which counts before it.
        pretrained = resolved.pop('pretrained')
    # Hugging Face's folders hold weights beside the config.
    ckpt = ckpt or pretrained or (resolved.get('backbone') or {}).get('folder')
    if ckpt is None and not allow_random:
        raise ValueError(
            'model.teacher_ckpt=None leaves the teacher without weights, and an untrained '
            'teacher teaches noise: give the checkpoint of a trained teacher, or '
            'model.allow_random_teacher=True if noise is what you want.'
        )
    declared = bool(resolved.get('data_preprocessor'))
    network = build_network(resolved, 'model.teacher')
    # By the attribute of kd_plugins.models.FoundationBackbone: models import mmpretrain.
    if not declared and hasattr(getattr(network, 'backbone', None), 'normalises'):
        network.data_preprocessor = _own_preprocessor(network.backbone)
    path = cfg.get('cfg_path', '')
    if not declared and path.startswith('mmpretrain::') and '_base_' not in path:
        raise _unknown_input(f'cfg_path={path!r}', 'it has no data_preprocessor')
    classes = None
    if ckpt is None:
        network.init_weights()
    else:
        classes = classes_in(load_weights(network, ckpt))
    if class_map is not None:
        index = choose(class_map, network, classes)
        keep_classes(network, index)
        classes = classes and tuple(classes[i] for i in index)
    return network, ckpt, declared or declares_input(network.data_preprocessor), classes


def _own_preprocessor(backbone: Any) -> nn.Module:
    """Return what makes the input that a network of another package says it was trained with."""
    if backbone.normalises is None:
        why = 'a folder of Hugging Face says mean and deviation in preprocessor_config.json'
        raise _unknown_input(type(backbone).__name__, why)
    return MODELS.build(dict(type='mmpretrain.ClsDataPreprocessor', **backbone.normalises))


def _unknown_input(what: str, why: str) -> ValueError:
    return ValueError(
        f'model.teacher ({what}) does not say how its input was normalised ({why}): give '
        'model.teacher.data_preprocessor=dict(mean=[...], std=[...], to_rgb=True), of pixels '
        'from 0 to 255.'
    )
