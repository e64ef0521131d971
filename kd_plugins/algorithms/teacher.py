"""The teacher's weights and the teacher's input."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from kd_plugins.algorithms.published import classifier_weights

#: A key of a batch norm that checkpoints older than torch 0.4.1 lack.
_OPTIONAL = 'num_batches_tracked'


def load_teacher_weights(teacher: nn.Module, path: str, key: str = 'model.teacher_ckpt') -> None:
    """Load every weight of the teacher, or say what does not fit.

    Takes what mmengine writes, a bare state dict, and ``{'model': ...}``, with
    or without ``module.``; a checkpoint of a student that kd_plugins trained is
    one of them, and its ``distiller.*`` is left out. Classifiers also take the
    checkpoints of the networks that they were published as (see
    :func:`kd_plugins.algorithms.published.classifier_weights`).

    Args:
        teacher: The network to load into.
        path: A file, or an address that mmengine's loader knows.
        key: The config key, for error messages.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a weight is missing, left over or of another shape.
    """
    if '://' not in path and not os.path.isfile(path):
        raise FileNotFoundError(
            f'{key}={path!r} is not a file: train the teacher first, or give the path or address '
            'of its checkpoint.'
        )
    checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu', logger='silent')
    weights = classifier_weights(_state_dict_of(checkpoint, f'{key}={path!r}'), teacher)
    expected = teacher.state_dict()
    missing = [k for k in expected if k not in weights and not k.endswith(_OPTIONAL)]
    unexpected = [k for k in weights if k not in expected]
    reshaped = [k for k in expected if k in weights and weights[k].shape != expected[k].shape]
    complaints = []
    if reshaped:
        k = reshaped[0]
        complaints.append(
            f'{len(reshaped)} weights have another shape (first: {k} is {tuple(weights[k].shape)} '
            f'in the file, {tuple(expected[k].shape)} in the teacher)'
        )
    if missing:
        complaints.append(f'{len(missing)} weights are missing (first: {missing[0]})')
    if unexpected:
        complaints.append(f'{len(unexpected)} are unknown to the teacher (first: {unexpected[0]})')
    if complaints:
        raise ValueError(
            f'{key}={path!r} does not fit the teacher ({describe(teacher)}): '
            f'{"; ".join(complaints)}. Give the checkpoint of this architecture and class count.'
        )
    teacher.load_state_dict(weights, strict=False)


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
    return {key: value for key, value in plain.items() if not key.startswith('distiller.')}


def describe(network: nn.Module) -> str:
    """Name a network by its type and, where it has one, its backbone's."""
    backbone = getattr(network, 'backbone', None)
    inner = f' with {type(backbone).__name__}' if backbone is not None else ''
    return type(network).__name__ + inner


class TeacherInput(nn.Module):
    """Turns the student's preprocessed batch into the teacher's.

    Both networks see the same augmented pictures. Where they were trained with
    other means, deviations or channel orders, the student's normalisation is
    undone and the teacher's applied; padding, which both preprocessors add
    after normalising, becomes the teacher's pad value.

    Args:
        student: The student's data preprocessor.
        teacher: The teacher's, or None if it declares no normalisation of its
            own and takes the student's input as it is.
        size: Height and width that the teacher was trained for, if another.
    """

    scale: Tensor
    bias: Tensor

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        size: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else size and tuple(size)
        self.converts = False
        if teacher is None:
            return
        mean_S, std_S = _normalisation(student)
        mean_T, std_T = _normalisation(teacher)
        self.flip = _swaps_channels(student) != _swaps_channels(teacher)
        if self.flip:
            mean_S, std_S = mean_S.flip(0), std_S.flip(0)
        scale, bias = std_S / std_T, (mean_S - mean_T) / std_T
        self.pad_value = float(getattr(teacher, 'pad_value', 0))
        self.converts = bool(self.flip or (scale != 1).any() or (bias != 0).any())
        self.register_buffer('scale', scale.float(), persistent=False)
        self.register_buffer('bias', bias.float(), persistent=False)

    def forward(self, inputs: Tensor, data_samples: Sequence[Any] | None = None) -> Tensor:
        """Return the teacher's batch, (N, channels, H, W), from the student's."""
        if self.converts:
            inputs = inputs.flip(1) if self.flip and inputs.shape[1] == 3 else inputs
            inputs = inputs * self.scale + self.bias
            self._pad(inputs, data_samples)
        if self.size is not None and tuple(inputs.shape[-2:]) != self.size:
            inputs = F.interpolate(inputs, self.size, mode='bilinear', antialias=True)
        return inputs

    def _pad(self, inputs: Tensor, data_samples: Sequence[Any] | None) -> None:
        for picture, sample in zip(inputs, data_samples or (), strict=False):
            shape = sample.metainfo.get('img_shape') if hasattr(sample, 'metainfo') else None
            if shape is not None:
                picture[:, shape[0] :, :] = self.pad_value
                picture[:, :, shape[1] :] = self.pad_value


def _normalisation(preprocessor: nn.Module) -> tuple[Tensor, Tensor]:
    """Mean and deviation, (channels, 1, 1); 0 and 1 where there is neither."""
    if getattr(preprocessor, '_enable_normalize', False):
        buffers = dict(preprocessor.named_buffers(recurse=False))
        return buffers['mean'].double().cpu(), buffers['std'].double().cpu()
    return torch.zeros(1, 1, 1).double(), torch.ones(1, 1, 1).double()


def _swaps_channels(preprocessor: nn.Module) -> bool:
    # mmpretrain says to_rgb, mmengine and mmdet keep _channel_conversion.
    return bool(
        getattr(preprocessor, 'to_rgb', False)
        or getattr(preprocessor, '_channel_conversion', False)
    )
