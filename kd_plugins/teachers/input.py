"""The teacher's input, from the student's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.networks import normalisation, swaps_channels

#: A side, height and width, or ``dict(scale=...)``.
InputSize = int | Sequence[int] | Mapping[str, float]


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
        size: Height and width that the teacher was trained for, if another;
            ``dict(scale=0.875)`` for a share of the student's, whatever that is.

    Raises:
        ValueError: If what one of them computes is not known, or the size is none.
    """

    scale: Tensor
    bias: Tensor

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        size: InputSize | None = None,
    ) -> None:
        super().__init__()
        self.scale_of_size = _scale(size) if isinstance(size, Mapping) else None
        self.size = None if size is None or self.scale_of_size else _height_and_width(size)
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

    def forward(self, inputs: Tensor, data_samples: Any = None) -> Tensor:
        """Return the teacher's batch, (N, channels, H, W), from the student's and its samples."""
        given = inputs
        if self.flip and inputs.shape[1] == 3:
            inputs = inputs.flip(1)
        if self.normalises:
            inputs = inputs * self.scale + self.bias
        if self.pad_value is not None:
            inputs = self._pad(inputs, given, data_samples)
        size = self.size
        if self.scale_of_size is not None:
            height, width = (max(1, round(x * self.scale_of_size)) for x in inputs.shape[-2:])
            size = height, width
        if size is not None and tuple(inputs.shape[-2:]) != size:
            inputs = F.interpolate(inputs, size, mode='bilinear', antialias=True)
        return inputs

    # Compiled code would keep the sizes of the first batch.
    @torch.compiler.disable
    def _pad(self, inputs: Tensor, given: Tensor, data_samples: Any) -> Tensor:
        sizes = self.padding.sizes(tuple(inputs.shape), data_samples)
        if sizes is None:
            return inputs
        assert self.pad_value is not None
        inputs = inputs.clone() if inputs is given else inputs
        for picture, (height, width) in zip(inputs, sizes, strict=True):
            picture[:, height:, :] = self.pad_value
            picture[:, :, width:] = self.pad_value
        return inputs


def _scale(size: Mapping[str, Any]) -> float:
    right = 'dict(scale=...), a factor above 0'
    if set(size) != {'scale'}:
        raise checks.refuse('model.teacher_input_size', dict(size), right)
    return checks.number('model.teacher_input_size.scale', size['scale'], right, above=0)


def _height_and_width(size: Any) -> tuple[int, int]:
    pair = size if isinstance(size, Sequence) else (size, size)
    if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
        raise checks.refuse(
            'model.teacher_input_size',
            size,
            'a number of pixels above 0, (height, width), or dict(scale=...)',
        )
    return pair[0], pair[1]


class PaddingWatch:
    """Remembers how large pictures were before they were padded.

    Those of samples as long as there are these; where a batch has none, those of
    the latest batch.

    Args:
        preprocessor: The one that pads, at the right and below.
    """

    def __init__(self, preprocessor: nn.Module) -> None:
        self._shape: tuple[int, ...] | None = None
        self._sizes: list[tuple[int, int]] | None = None
        self._of_samples: WeakKeyDictionary[Any, tuple[int, int]] = WeakKeyDictionary()
        preprocessor.register_forward_hook(self._look, with_kwargs=True)

    def __deepcopy__(self, memo: dict[int, Any]) -> PaddingWatch:
        # Copies of an algorithm share its teacher, to which this belongs.
        return self

    def __getstate__(self) -> dict[str, Any]:
        # Weak references cannot be pickled.
        return dict(vars(self), _of_samples=None)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _of_samples=WeakKeyDictionary())

    def sizes(
        self, shape: tuple[int, ...], data_samples: Any = None
    ) -> list[tuple[int, int]] | None:
        """Return height and width of every picture of a batch, None if none is padded.

        Args:
            shape: The batch's, (N, channels, H, W).
            data_samples: Its samples. Where they did not come from the
                preprocessor, and the batch has not the shape of the latest one
                that did, nothing is known to be padded.
        """
        if isinstance(data_samples, (list, tuple)) and all(map(_is_sample, data_samples)):
            found = [self._of_samples.get(sample) for sample in data_samples]
            known = [size for size in found if size is not None]
            if len(known) == shape[0] == len(found):
                return known if any(size != shape[-2:] for size in known) else None
        return self._sizes if shape == self._shape else None

    @torch.compiler.disable
    def _look(self, preprocessor: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        self._shape = self._sizes = None
        data = args[0] if args else kwargs.get('data')
        if not isinstance(data, Mapping) or not isinstance(output, Mapping):
            return
        pictures = data.get('inputs')
        if pictures is None:
            return
        found = [(p.shape[-2], p.shape[-1]) for p in pictures if isinstance(p, Tensor)]
        training = args[1] if len(args) > 1 else kwargs.get('training', False)
        if 'unlabelled' not in output:
            self._look_at(preprocessor, found, output, training)
            return
        # Ours, which keep two kinds of pictures apart.
        kinds = preprocessor.without_labels(data)
        if len(kinds) != len(found):
            return
        for part, wanted in ((output, False), (output['unlabelled'], True)):
            sizes = [size for size, kind in zip(found, kinds, strict=True) if kind is wanted]
            self._look_at(preprocessor, sizes, part, training)

    def _look_at(
        self,
        preprocessor: nn.Module,
        found: list[tuple[int, int]],
        output: Mapping[str, Any],
        training: bool,
    ) -> None:
        """Remember the sizes of a batch of pictures that were padded together."""
        batch = output.get('inputs')
        if not isinstance(batch, Tensor) or batch.dim() != 4 or len(found) != len(batch):
            return
        height, width = batch.shape[-2:]
        sizes = found
        if training and getattr(preprocessor, 'batch_augments', None):
            sizes = _augmented(found, preprocessor, height, width)
        samples = output.get('data_samples')
        if isinstance(samples, (list, tuple)) and all(map(_is_sample, samples)):
            self._of_samples.update(zip(samples, sizes, strict=False))
        self._shape = tuple(batch.shape)
        self._sizes = sizes if any(size != (height, width) for size in sizes) else None


def _is_sample(sample: Any) -> bool:
    return isinstance(sample, BaseDataElement)


def _augmented(
    sizes: list[tuple[int, int]], preprocessor: Any, height: int, width: int
) -> list[tuple[int, int]]:
    """Return what sizes have become where batch augments have changed the padded batch.

    mmdet's ``BatchSyncRandomResize`` and ``BatchResize`` resize it, ``BatchResize`` and
    ``BatchFixedSizePad`` pad it further.

    Raises:
        ValueError: If pictures were mixed, so that padding and pictures lie over each other.
    """
    augments = preprocessor.batch_augments
    divisor = max(getattr(preprocessor, 'pad_size_divisor', 1), 1)
    whole: tuple[int, ...] = _divisible((max(side) for side in zip(*sizes, strict=True)), divisor)
    if not isinstance(augments, nn.ModuleList):
        # mmpretrain's, which mix pictures. These two keep every pixel in its place.
        kinds = {type(each).__name__ for each in augments.augments}
        if len({*sizes}) > 1 or (
            sizes[0] != whole and not kinds <= {'Mixup', 'CutMix', 'NoneType'}
        ):
            raise ValueError(
                f'data_preprocessor.batch_augments ({", ".join(sorted(kinds))}) mixes pictures '
                f'that are padded (sizes {sorted({*sizes})} in a batch of {(height, width)}), and '
                "the teacher pads otherwise than the student, so that the teacher's input cannot "
                'be told: bring the pictures to one size in the pipeline.'
            )
        return sizes
    for augment in augments:
        if type(augment).__name__ == 'BatchFixedSizePad':
            whole = tuple(map(max, whole, augment.size))
            continue
        if 'Resize' not in type(augment).__name__:
            continue
        target = height, width
        padded: tuple[int, ...] = target
        if hasattr(augment, 'get_target_size'):
            target = augment.get_target_size(*whole)[:2]
            padded = _divisible(target, augment.pad_size_divisor)
        scales = [new / old for new, old in zip(target, whole, strict=True)]
        sizes = [(round(h * scales[0]), round(w * scales[1])) for h, w in sizes]
        whole = padded
    return sizes


def _divisible(size: Iterable[int], divisor: int) -> tuple[int, ...]:
    return tuple(math.ceil(side / divisor) * divisor for side in size)


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
    # Other packages' preprocessors have other names for their channel order and their padding.
    known = type(preprocessor) is BaseDataPreprocessor or (
        hasattr(preprocessor, '_enable_normalize')
        and (hasattr(preprocessor, 'to_rgb') or hasattr(preprocessor, '_channel_conversion'))
    )
    if not known:
        raise ValueError(
            f'the {side} has the data_preprocessor {type(preprocessor).__name__!r}, and the '
            "teacher declares one of its own: how the teacher's input follows from the student's "
            "is known for mmengine's, mmpretrain's and mmdet's preprocessors of single pictures "
            'only; leave data_preprocessor out of the teacher if it takes the input of the student.'
        )
