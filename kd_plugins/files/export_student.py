"""Taking the student out of a training's checkpoint."""

from __future__ import annotations

import copy
import hashlib
import io
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from kd_plugins.files.weights import load_weights
from kd_plugins.files.writing import write_aside
from kd_plugins.networks import build_network, build_student_network, resolve_network

#: What the stock tools read of a checkpoint's meta, and what says where it comes from.
META = ('dataset_meta', 'epoch', 'iter', 'seed', 'time', 'mmengine_version')


def build_student(cfg: Config) -> nn.Module:
    """Build the student of a distillation's config, or the model of its own config.

    Its preprocessor is the one that the training uses.

    Raises:
        ValueError: If the config has no model.
    """
    if 'model' not in cfg:
        raise ValueError(f'{cfg.filename!r} has no model: give the config of the training.')
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    # The Runner hands the top level's to the model, and the algorithm its own to the student.
    model = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    if 'architecture' in model:
        return build_student_network(model.architecture, model.get('data_preprocessor'))
    return build_network(resolve_network(model, 'model')[0], 'model')


def export_student(cfg: Config, checkpoint: str, raw: bool = False) -> dict[str, Any]:
    """Return a checkpoint of nothing but the student.

    Args:
        cfg: Config of the distillation, or of the student.
        checkpoint: What the training wrote (last, best or averaged), or a
            distillation of mmrazor.
        raw: Of a training with mmengine's ``EMAHook``, take the weights that
            were trained instead of their average, which is what it evaluates.

    Returns:
        ``state_dict``, whose keys are those of the stock model, every one of
        them, and ``meta`` with what of :data:`META` the checkpoint has.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a weight is missing, left over or of another shape, or
            there is no average to choose against.
    """
    student = build_student(cfg)
    source = load_weights(student, checkpoint, 'checkpoint', 'student')
    if raw:
        # The EMAHook writes the average as the model, and the model here.
        kept = source.get('ema_state_dict')
        if kept is None:
            raise ValueError(
                f'checkpoint={checkpoint!r} has no ema_state_dict, so its weights are the raw ones '
                'already: leave --raw out.'
            )
        student.load_state_dict({key: kept[f'module.{key}'] for key in student.state_dict()})
    meta = source.get('meta') or {} if isinstance(source, dict) else {}
    weights: dict[str, Tensor] = {k: v.cpu().clone() for k, v in student.state_dict().items()}
    return dict(state_dict=weights, meta={key: meta[key] for key in META if key in meta})


def save(checkpoint: dict[str, Any], path: Path, publish: bool = False) -> Path:
    """Write a checkpoint; an interruption leaves the old file or the new one.

    Args:
        checkpoint: What to write.
        path: Where to.
        publish: Append the first 8 digits of the file's SHA-256 to its name,
            as upstream's publish tools do; loaders of addresses check it.

    Returns:
        Where it was written.
    """
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    content = buffer.getvalue()
    if publish:
        digest = hashlib.sha256(content).hexdigest()[:8]
        path = path.with_name(f'{path.stem}-{digest}{path.suffix}')
    write_aside(content, path)
    return path
