"""The teacher's input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
        mean_S, std_S = normalisation(student)
        mean_T, std_T = normalisation(teacher)
        self.flip = swaps_channels(student) != swaps_channels(teacher)
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


def normalisation(preprocessor: Any) -> tuple[Tensor, Tensor]:
    """Mean and deviation, (channels, 1, 1); 0 and 1 where there is neither."""
    if getattr(preprocessor, '_enable_normalize', False):
        buffers = dict(preprocessor.named_buffers(recurse=False))
        return buffers['mean'].double().cpu(), buffers['std'].double().cpu()
    return torch.zeros(1, 1, 1).double(), torch.ones(1, 1, 1).double()


def swaps_channels(preprocessor: Any) -> bool:
    """Whether a preprocessor turns BGR into RGB."""
    # mmpretrain says to_rgb, mmengine and mmdet keep _channel_conversion.
    return bool(
        getattr(preprocessor, 'to_rgb', False)
        or getattr(preprocessor, '_channel_conversion', False)
    )
