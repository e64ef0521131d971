"""Loading every weight of a network, or none."""

from __future__ import annotations

import os
from typing import Any

from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from kd_plugins.files.published import classifier_weights

#: A key of a batch norm that checkpoints older than torch 0.4.1 lack.
_OPTIONAL = 'num_batches_tracked'
#: Where mmrazor's distillation checkpoints keep the student, beside ``teacher.*``.
_STUDENT = 'architecture.'


def load_weights(
    network: nn.Module, path: str, key: str = 'model.teacher_ckpt', role: str = 'teacher'
) -> dict[str, Any]:
    """Load every weight of a network, or say what does not fit.

    Takes what mmengine writes, a bare state dict, and ``{'model': ...}``, with
    or without ``module.``. A distillation's checkpoint gives its student: what
    kd_plugins wrote without ``distiller.*``, what mmrazor wrote without
    ``teacher.*`` and the prefix ``architecture.``. Classifiers also take the
    checkpoints of the networks that they were published as (see
    :func:`kd_plugins.files.published.classifier_weights`).

    Args:
        network: The network to load into.
        path: A file, or an address that mmengine's loader knows.
        key: The config key, for error messages.
        role: What the network is, for error messages.

    Returns:
        The checkpoint as it was read.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a weight is missing, left over or of another shape.
    """
    if '://' not in path and not os.path.isfile(path):
        raise FileNotFoundError(
            f'{key}={path!r} is not a file: train the {role} first, or give the path or address '
            'of its checkpoint.'
        )
    checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu', logger='silent')
    weights = classifier_weights(_state_dict_of(checkpoint, f'{key}={path!r}'), network)
    expected = network.state_dict()
    missing = [k for k in expected if k not in weights and not k.endswith(_OPTIONAL)]
    unexpected = [k for k in weights if k not in expected]
    reshaped = [k for k in expected if k in weights and weights[k].shape != expected[k].shape]
    complaints = []
    if reshaped:
        k = reshaped[0]
        complaints.append(
            f'{len(reshaped)} weights have another shape (first: {k} is {tuple(weights[k].shape)} '
            f'in the file, {tuple(expected[k].shape)} in the {role})'
        )
    if missing:
        complaints.append(f'{len(missing)} weights are missing (first: {missing[0]})')
    if unexpected:
        complaints.append(f'{len(unexpected)} are unknown to the {role} (first: {unexpected[0]})')
    if complaints:
        raise ValueError(
            f'{key}={path!r} does not fit the {role} ({describe(network)}): '
            f'{"; ".join(complaints)}. Give the checkpoint of this architecture and class count.'
        )
    network.load_state_dict(weights, strict=False)
    return checkpoint


def _state_dict_of(checkpoint: Any, name: str) -> dict[str, Tensor]:
    for wrapper in ('state_dict', 'model'):
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get(wrapper), dict):
            checkpoint = checkpoint[wrapper]
            break
    if not isinstance(checkpoint, dict) or not all(
        isinstance(value, Tensor) for value in checkpoint.values()
    ):
        raise ValueError(f'{name} is not a checkpoint: it holds no state dict of tensors.')
    plain = {key.removeprefix('module.'): value for key, value in checkpoint.items()}
    if any(key.startswith(_STUDENT) for key in plain):
        return {k.removeprefix(_STUDENT): v for k, v in plain.items() if k.startswith(_STUDENT)}
    return {key: value for key, value in plain.items() if not key.startswith('distiller.')}


def describe(network: nn.Module) -> str:
    """Name a network by its type and, where it has one, its backbone's."""
    backbone = getattr(network, 'backbone', None)
    inner = f' with {type(backbone).__name__}' if backbone is not None else ''
    return type(network).__name__ + inner
