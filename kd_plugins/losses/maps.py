"""What the terms on feature maps (CWD, PKD, MGD, SL2) share: checks, precision, levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.losses.base import WeightedLoss, at_least_float32
from kd_plugins.structures import FeaturesSpec, as_maps

#: Added to every deviation in the published codes of PKD and CrossKD.
EPS = 1e-6
#: The least deviation of a channel, as a share of the mean of all channels' deviations.
LEAST = 1e-3


def moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return maps less their means, and each channel's mean and unbiased variance.

    Over pictures and positions.

    Args:
        x: Shape (N, C, H, W), with two values a channel at least.

    Returns:
        A tensor as ``x``, and two of shape (1, C, 1, 1).
    """
    # Without another layout, in which a gradient, be it 0, would change how the student's
    # own are computed. On CPUs torch.var takes four times as long as these sums.
    mean = x.mean((0, 2, 3), keepdim=True)
    centred = x - mean
    variance = centred.square().sum((0, 2, 3), keepdim=True) / (values_per_channel(x) - 1)
    return centred, mean, variance


def centred_and_deviation(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return maps less their means, and each channel's deviation, never 0.

    By the second what is left of a channel that is constant is 0, and its gradient is within
    1 / LEAST of the other channels'.

    Args:
        x: As for :func:`moments`.
    """
    centred, _, variance = moments(x)
    least = (LEAST * variance.detach().sqrt().mean()).square()
    # Where no channel has a deviation, no share of it can be the least.
    least = torch.where(least > 0, least, torch.ones_like(least))
    # Before the root, whose slope at 0 is infinite.
    return centred, torch.maximum(variance, least).sqrt() + EPS


def standardized(x: Tensor) -> Tensor:
    """Return maps less their mean, over their deviation, channel by channel.

    Args:
        x: As for :func:`moments`; see :func:`centred_and_deviation`.
    """
    centred, deviation = centred_and_deviation(x)
    return centred * deviation.reciprocal()


def values_per_channel(x: Tensor) -> int:
    """How many values of maps, (N, C, H, W), a channel has."""
    return x.shape[0] * x.shape[2] * x.shape[3]


class MapsLoss(WeightedLoss):
    """Base of the losses on one or several feature maps, added up over the levels.

    Args:
        loss_weight: As in :class:`WeightedLoss`.
        levels: Which levels take part, counted from 0, the first one. None for all.
        resize: ``'coarser'`` to average the larger of two maps of a level over areas, to
            the height and width of the smaller; None where they have to be the same (or
            the loss says how it resizes).

    Raises:
        ValueError: On a setting out of range, or maps that differ. What is known of two necks is
            compared before training, the rest in the first step.
    """

    #: Whether heights and widths may differ.
    resizes = False
    #: Whether channels may differ without layers between.
    any_channels = False

    def __init__(
        self,
        loss_weight: float = 1.0,
        levels: Sequence[int] | None = None,
        resize: str | None = None,
    ) -> None:
        super().__init__(loss_weight)
        name = f'{type(self).__name__}.resize'
        self.resize = None if resize is None else checks.one_of(name, resize, ('coarser',))
        if levels is not None:
            key = f'{type(self).__name__}.levels'
            right = 'a list of different levels, counted from 0'
            if isinstance(levels, (str, int)) or len(set(levels)) != len(levels) or not levels:
                raise checks.refuse(key, levels, right)
            levels = [checks.whole_number(key, level, 0, right) for level in levels]
        self.levels = levels

    @property
    def _any_size(self) -> bool:
        return self.resizes or self.resize is not None

    def taken_channels(self, spec: Any) -> tuple[int, ...] | None:
        """Channels that the loss can compare with the teacher's; None if anything fits."""
        return None if self.any_channels else spec.channels

    def check_specs(self, key: str, preds_S: Any = None, preds_T: Any = None, **_: Any) -> None:
        """Refuse two networks whose maps will differ.

        Args:
            key: The config key of this loss.
            preds_S: What is known of the student's maps behind the connector, or None.
            preds_T: What is known of the teacher's, or None.

        Raises:
            ValueError: Naming both sides.
        """
        if not (isinstance(preds_S, FeaturesSpec) and isinstance(preds_T, FeaturesSpec)):
            return
        known = preds_S.strides is not None and preds_T.strides is not None
        strides_differ = known and not self._any_size and preds_S.strides != preds_T.strides
        taken = self.taken_channels(preds_S)
        if len(preds_S.channels) != len(preds_T.channels) or strides_differ or (
            taken is not None and taken != preds_T.channels
        ):  # fmt: skip
            raise ValueError(
                f'{key} compares level with level, but {preds_S.source} of the student gives '
                f'{preds_S.said}, and {preds_T.source} of the teacher {preds_T.said}: give '
                'networks with the same levels, and a connector where their channels differ.'
            )
        if self.levels is not None and max(self.levels) >= len(preds_S.channels):
            raise ValueError(
                f'{key}.levels={self.levels} do not fit {preds_S.source} of the student, which '
                f'gives {preds_S.said}: count them from 0.'
            )

    def _maps(
        self, preds_S: Tensor | Sequence[Tensor], preds_T: Tensor | Sequence[Tensor]
    ) -> list[tuple[Tensor, Tensor]]:
        """Return pairs of maps that take part; the teacher's detached, in float32 or better.

        The student's keep their precision: what is learned between both may run in half.
        """
        both = [as_maps(preds_S), [at_least_float32(x.detach()) for x in as_maps(preds_T)]]
        shapes_S, shapes_T = ([tuple(x.shape) for x in maps] for maps in both)
        if (
            not shapes_S
            or len(shapes_S) != len(shapes_T)
            or any(len(shape) != 4 for shape in shapes_S + shapes_T)
            or _channels_last(shapes_S, shapes_T)
            or any(a[0] != b[0] for a, b in zip(shapes_S, shapes_T, strict=True))
            or (
                not self._any_size
                and any(a[2:] != b[2:] for a, b in zip(shapes_S, shapes_T, strict=True))
            )
        ):
            raise ValueError(
                f'{type(self).__name__} needs maps (N, C, H, W) of the same levels'
                f'{"" if self._any_size else " and sizes"}, but preds_S has {shapes_S} and preds_T '
                f'has {shapes_T}: {_advice(shapes_S, shapes_T)}'
            )
        pairs = list(zip(*both, strict=True))
        if self.resize is not None:
            pairs = [to_coarser(*pair) for pair in pairs]
        if self.levels is None:
            return pairs
        if max(self.levels) >= len(pairs):
            raise ValueError(
                f'{type(self).__name__}.levels={self.levels} do not fit {len(pairs)} levels: count '
                'them from 0.'
            )
        return [pairs[level] for level in self.levels]

    def _check_channels(self, x_S: Tensor, x_T: Tensor) -> None:
        if not self.any_channels and x_S.shape[1] != x_T.shape[1]:
            raise ValueError(
                f'{type(self).__name__} needs maps of the same channels, but preds_S has '
                f'{tuple(x_S.shape)} and preds_T has {tuple(x_T.shape)}: give a connector, such as '
                "dict(type='mmrazor.ConvModuleConnector', in_channel=<student's>, "
                "out_channel=<teacher's>)."
            )


class LevelsLoss(MapsLoss):
    """Base of the losses that compare maps level by level, and read nothing else.

    Attributes:
        relates_positions: Whether the positions of a map are compared with each other, so that
            a map of one position always gives 0.
    """

    relates_positions = False

    def forward(
        self, preds_S: Tensor | Sequence[Tensor], preds_T: Tensor | Sequence[Tensor]
    ) -> Tensor:
        """Return the loss, a scalar in float32 or better.

        Args:
            preds_S: The student's map, (N, C, H, W), or several, one a level.
            preds_T: The teacher's, of the same shapes unless the loss says otherwise; detached
                here.
        """
        pairs = self._maps(preds_S, preds_T)
        if self.relates_positions and all(x_T.shape[2:].numel() == 1 for _, x_T in pairs):
            raise ValueError(
                f'{type(self).__name__} compares the positions of a map with each other, and every '
                f'map has one: preds_S has {[tuple(x.shape) for x in as_maps(preds_S)]}, preds_T '
                f'has {[tuple(x.shape) for x in as_maps(preds_T)]}, so that it would always be 0: '
                'record maps of an earlier module (AutoDistiller finds them where its size is that '
                "of the training's pictures), or take a term such as cosine."
            )
        parts = []
        for x_S, x_T in pairs:
            self._check_channels(x_S, x_T)
            parts.append(self.compare(at_least_float32(x_S), x_T))
        return added(parts) * self.loss_weight

    def compare(self, x_S: Tensor, x_T: Tensor) -> Tensor:
        """Return the loss of one level, from both maps in float32 or better."""
        raise NotImplementedError


class ProjectedMapsLoss(MapsLoss):
    """Base of the losses with layers of their own on the student's maps, one module a level.

    Args:
        channels_S: Channels of the student's maps that take part, the first level first.
        channels_T: Those of the teacher's.
        loss_weight, levels, resize: As in :class:`MapsLoss`.
    """

    def __init__(
        self,
        channels_S: Sequence[int],
        channels_T: Sequence[int],
        loss_weight: float,
        levels: Sequence[int] | None,
        resize: str | None = None,
    ) -> None:
        super().__init__(loss_weight, levels, resize)
        name = type(self).__name__
        for key, value in (('channels_S', channels_S), ('channels_T', channels_T)):
            if isinstance(value, (str, int)) or not len(value):
                raise checks.refuse(f'{name}.{key}', value, 'a list of channels, one a level')
            for channels in value:
                checks.whole_number(f'{name}.{key}', channels)
        number = len(channels_S)
        for key, more in (('channels_T', channels_T), ('levels', levels)):
            if more is not None and len(more) != number:
                raise checks.refuse(f'{name}.{key}', more, f'one for each of {number} levels')
        self.channels_S, self.channels_T = tuple(channels_S), tuple(channels_T)
        self.projectors = nn.ModuleList(
            self.projector(*pair) for pair in zip(channels_S, channels_T, strict=True)
        )

    def projector(self, channels_S: int, channels_T: int) -> nn.Module:
        """Return the layers of one level."""
        raise NotImplementedError

    def taken_channels(self, spec: Any) -> tuple[int, ...] | None:
        return None

    def check_specs(self, key: str, preds_S: Any = None, preds_T: Any = None, **_: Any) -> None:
        """Refuse networks whose maps have other channels than the settings say."""
        super().check_specs(key, preds_S, preds_T)
        for name, side, spec in (
            ('channels_S', 'student', preds_S),
            ('channels_T', 'teacher', preds_T),
        ):
            if not isinstance(spec, FeaturesSpec):
                continue
            levels = range(len(spec.channels)) if self.levels is None else self.levels
            expected = tuple(spec.channels[level] for level in levels)
            if getattr(self, name) != expected:
                raise ValueError(
                    f'{key}.{name}={list(getattr(self, name))} does not fit {spec.source} of the '
                    f'{side}, which gives {spec.said}: give {list(expected)}.'
                )

    def _projected(
        self, preds_S: Tensor | Sequence[Tensor], preds_T: Tensor | Sequence[Tensor]
    ) -> list[tuple[Any, Tensor, Tensor]]:
        """Return the module and both maps of every level."""
        pairs = self._maps(preds_S, preds_T)
        found = tuple(zip(*((a.shape[1], b.shape[1]) for a, b in pairs), strict=True))
        if found != (self.channels_S, self.channels_T):
            raise ValueError(
                f'{type(self).__name__}.channels_S={list(self.channels_S)}, '
                f'channels_T={list(self.channels_T)} do not fit maps of {list(found[0])} (student) '
                f'and {list(found[1])} channels (teacher).'
            )
        return [(m, a, b) for m, (a, b) in zip(self.projectors, pairs, strict=True)]


Shapes = Sequence[tuple[int, ...]]


def _advice(shapes_S: Shapes, shapes_T: Shapes) -> str:
    """Say what is right in the place of such shapes."""
    if any(len(shape) == 3 for shape in [*shapes_S, *shapes_T]):
        return (
            'tokens (N, L, C) become a map by '
            "dict(type='kd_plugins.Features', sources=[dict(output_of=..., extra_tokens=...)]) "
            'where the patches make a square; else record a module that gives maps.'
        )
    for shape in _channels_last(shapes_S, shapes_T):
        return (
            f'{shape} looks as if channels came last, (N, H, W, C): record a module that gives '
            '(N, C, H, W), such as the whole backbone.'
        )
    return 'check the sources of the recorders (and data_idx where a module returns several).'


def _channels_last(shapes_S: Shapes, shapes_T: Shapes) -> Shapes:
    """Return those that are square where a channel should be, and whose partner is not.

    Of one picture partners have about the same proportions, so that a map of as many channels as
    rows has a partner that is no square either.
    """
    found = []
    for pair in zip(shapes_S, shapes_T, strict=False):
        for last, first in (pair, pair[::-1]):
            whole = len(last) == len(first) == 4
            if whole and last[1] == last[2] != last[3] and first[1] != first[2] == first[3]:
                found.append(last)
    return found


def added(parts: Sequence[Tensor]) -> Tensor:
    """Sum of scalars, one a level."""
    return torch.stack(list(parts)).sum()


def to_coarser(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return two maps, (N, C, H, W), averaged over areas to the smaller height and width."""
    size = min(x.shape[2], y.shape[2]), min(x.shape[3], y.shape[3])
    return _averaged(x, size), _averaged(y, size)


def _averaged(x: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = x.shape[2:]
    if (height, width) == size or 0 in size:
        return x
    if height % size[0] == 0 and width % size[1] == 0:
        # The same, and its backward pass is deterministic on every device.
        return F.avg_pool2d(x, (height // size[0], width // size[1]))
    return F.adaptive_avg_pool2d(x, size)
