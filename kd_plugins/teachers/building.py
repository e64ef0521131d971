"""Building a teacher from what a config says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import nn

from kd_plugins.files.weights import class_names, load_weights
from kd_plugins.networks import (
    NetworkCfg,
    build_network,
    forbid_inplace,
    initialisations,
    resolve_network,
)
from kd_plugins.optim.precision import as_dtype
from kd_plugins.teachers.base import Teacher
from kd_plugins.teachers.input import TeacherInput, declares_input
from kd_plugins.teachers.network import NetworkTeacher


def build_teacher(
    cfg: NetworkCfg | None,
    ckpt: str | None = None,
    *,
    preprocessor: nn.Module,
    allow_random: bool = False,
    inplace: bool = False,
    input_size: int | Sequence[int] | None = None,
    dtype: str | None = None,
    channels_last: bool = False,
    compile: bool | Mapping[str, Any] = False,
) -> Teacher:
    """Build the teacher of an algorithm, with every one of its weights.

    Args:
        cfg: Its config, ``dict(cfg_path=...)`` with changes beside it, a built
            model, or None for no teacher.
        ckpt: Its checkpoint.
        preprocessor: The student's, which its input comes from.
        allow_random: Accept a teacher without any weights.
        inplace: Leave its in-place activations as they are.
        input_size: Height and width to resize its input to.
        dtype: What it computes in.
        channels_last: Whether it computes in torch's channels-last layout.
        compile: Whether to compile it, or arguments of ``torch.compile``.

    Raises:
        ValueError: If it would teach noise, or a setting is none.
        FileNotFoundError: If there is no such checkpoint.
    """
    if cfg is None:
        settings = dict(
            teacher_ckpt=ckpt, teacher_input_size=input_size, teacher_dtype=dtype,
            teacher_channels_last=channels_last, teacher_compile=compile,
        )  # fmt: skip
        for key, value in settings.items():
            if value:
                raise ValueError(
                    f'model.{key}={value!r} is of a teacher, and model.teacher=None: leave it '
                    'out, or give the teacher.'
                )
        return Teacher()
    kind = torch.float32 if dtype == 'float32' else as_dtype(dtype, 'model.teacher_dtype')
    network, weights, declared, classes = _network(cfg, ckpt, allow_random)
    if not inplace:
        forbid_inplace(network)
    own = network.data_preprocessor if declared else None
    return NetworkTeacher(
        network,
        TeacherInput(preprocessor, own, input_size),
        preprocessor,
        weights,
        kind,
        channels_last,
        dict(compile) if isinstance(compile, Mapping) else {} if compile else None,
        owned=not isinstance(cfg, BaseModel),
        classes=classes,
    )


def _network(
    cfg: NetworkCfg, ckpt: str | None, allow_random: bool
) -> tuple[BaseModel, str | None, bool, list[str] | None]:
    """Return the network, where its weights are from, if it declares its input, its classes."""
    if isinstance(cfg, BaseModel):
        classes = None if ckpt is None else class_names(load_weights(cfg, ckpt))
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
    ckpt = ckpt or pretrained
    if ckpt is None and not allow_random:
        raise ValueError(
            'model.teacher_ckpt=None leaves the teacher without weights, and an untrained '
            'teacher teaches noise: give the checkpoint of a trained teacher, or '
            'model.allow_random_teacher=True if noise is what you want.'
        )
    declared = bool(resolved.get('data_preprocessor'))
    network = build_network(resolved, 'model.teacher')
    classes = None
    if ckpt is None:
        network.init_weights()
    else:
        classes = class_names(load_weights(network, ckpt))
    return network, ckpt, declared or declares_input(network.data_preprocessor), classes
