"""The teacher's input, from the student's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn

from kd_plugins.networks import normalisation, swaps_channels


class TeacherInput(nn.Module):
    """Turns the student's preprocessed batch into the teacher's.

    Both networks see the same augmented pictures. Where they were trained with
    other means, deviations or channel orders, the student's normalisation is
    undone and the teacher's applied. What the student's preprocessor has padded
    becomes the teacher's pad value: it is watched while it pads, because the
    sizes in data samples need not be those of the pictures.

    Args:
        student: The student's data preprocessor.
        teacher: The teacher's, or None if it declares none and takes the
            student's input as it is.
        size: Height and width that the teacher was trained for, if another.

    Raises:
        ValueError: If what one of them computes is not known.
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
        self.declared = teacher is not None
        self.normalises = self.flip = False
        self.pad_value: float | None = None
        if teacher is None:
            return
        for side, preprocessor in (('student', student), ('teacher', teacher)):
            _check_known(side, preprocessor)
        mean_S, std_S = normalisation(student)
        mean_T, std_T = normalisation(teacher)
        self.flip = swaps_channels(student) != swaps_channels(teacher)
        if self.flip:
            mean_S, std_S = mean_S.flip(0), std_S.flip(0)
        scale, bias = std_S / std_T, (mean_S - mean_T) / std_T
        self.normalises = bool((scale != 1).any() or (bias != 0).any())
        self.register_buffer('scale', scale.float(), persistent=False)
        self.register_buffer('bias', bias.float(), persistent=False)
        pad_values = [float(getattr(p, 'pad_value', 0)) for p in (student, teacher)]
        if self.normalises or pad_values[0] != pad_values[1]:
            self.pad_value = pad_values[1]
            self.padding = PaddingWatch(student)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the teacher's batch, (N, channels, H, W), from the student's."""
        if self.flip and inputs.shape[1] == 3:
            inputs = inputs.flip(1)
        if self.normalises:
            inputs = inputs * self.scale + self.bias
        if self.pad_value is not None:
            inputs = self._pad(inputs)
        if self.size is not None and tuple(inputs.shape[-2:]) != self.size:
            inputs = F.interpolate(inputs, self.size, mode='bilinear', antialias=True)
        return inputs

    def _pad(self, inputs: Tensor) -> Tensor:
        sizes = self.padding.sizes(tuple(inputs.shape))
        if sizes is None:
            return inputs
        assert self.pad_value is not None
        inputs = inputs if self.normalises or self.flip else inputs.clone()
        for picture, (height, width) in zip(inputs, sizes, strict=True):
            picture[:, height:, :] = self.pad_value
            picture[:, :, width:] = self.pad_value
        return inputs


class PaddingWatch:
    """Remembers how large the pictures of the latest batch were before they were padded.

    Args:
        preprocessor: The one that pads, at the right and below.
    """

    def __init__(self, preprocessor: nn.Module) -> None:
        self._shape: tuple[int, ...] | None = None
        self._sizes: list[tuple[int, int]] | None = None
        preprocessor.register_forward_hook(self._look, with_kwargs=True)

    def __deepcopy__(self, memo: dict[int, Any]) -> PaddingWatch:
        # Copies of an algorithm share its teacher, to which this belongs.
        return self

    def sizes(self, shape: tuple[int, ...]) -> list[tuple[int, int]] | None:
        """Return height and width of every picture of a batch, None if none is padded.

        Args:
            shape: (N, channels, H, W) of the latest batch. Of a batch that did
                not come from the preprocessor nothing is known to be padded.
        """
        return self._sizes if shape == self._shape else None

    def _look(self, preprocessor: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        self._shape = self._sizes = None
        data = args[0] if args else kwargs.get('data')
        if not isinstance(data, Mapping) or not isinstance(output, Mapping):
            return
        pictures, batch = data.get('inputs'), output.get('inputs')
        if not isinstance(batch, Tensor) or batch.dim() != 4 or pictures is None:
            return
        found = [(p.shape[-2], p.shape[-1]) for p in pictures if isinstance(p, Tensor)]
        if len(found) != len(batch):
            return
        height, width = batch.shape[-2:]
        sizes = _resized(found, preprocessor, height, width)
        self._shape = tuple(batch.shape)
        self._sizes = sizes if any(size != (height, width) for size in sizes) else None


def _resized(
    sizes: list[tuple[int, int]], preprocessor: Any, height: int, width: int
) -> list[tuple[int, int]]:
    """Return what sizes have become where a batch augment has resized the padded batch.

    mmdet's ``BatchSyncRandomResize`` and ``BatchResize`` do, its
    ``BatchFixedSizePad`` pads further.
    """
    divisor = max(getattr(preprocessor, 'pad_size_divisor', 1), 1)
    padded = [math.ceil(max(side) / divisor) * divisor for side in zip(*sizes, strict=True)]
    augments = getattr(preprocessor, 'batch_augments', None)
    names = [type(a).__name__ for a in augments] if isinstance(augments, nn.ModuleList) else []
    if padded == [height, width] or not any('Resize' in name for name in names):
        return sizes
    return [(round(h * height / padded[0]), round(w * width / padded[1])) for h, w in sizes]


#: What mmpretrain's preprocessor has where nothing was given.
_MMPRETRAINS = dict(
    _enable_normalize=False, to_rgb=False, pad_size_divisor=1, pad_value=0,
    num_classes=None, to_onehot=False,
)  # fmt: skip


def declares_input(preprocessor: nn.Module) -> bool:
    """Whether a network's preprocessor says how its input must be.

    Whatever is in it counts: YOLOX's has no mean, so that its network takes raw
    pixels. Only what upstream puts where nothing was given says nothing:
    mmengine's ``BaseDataPreprocessor``, and mmpretrain's without any setting.
    """
    if type(preprocessor) is BaseDataPreprocessor:
        return False
    if type(preprocessor).__name__ != 'ClsDataPreprocessor':
        return True
    return any(getattr(preprocessor, key, value) != value for key, value in _MMPRETRAINS.items())


def _check_known(side: str, preprocessor: nn.Module) -> None:
    known = type(preprocessor) is BaseDataPreprocessor or hasattr(preprocessor, '_enable_normalize')
    if not known:
        raise ValueError(
            f'the {side} has the data_preprocessor {type(preprocessor).__name__!r}, and the '
            "teacher declares one of its own: how the teacher's input follows from the student's "
            "is known for mmengine's, mmpretrain's and mmdet's preprocessors of single pictures "
            'only; leave data_preprocessor out of the teacher if it takes the input of the student.'
        )
