"""ReviewKD: every level of the student's features is fused with what coarser ones say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.dist import get_world_size
from mmrazor.models.architectures.connectors.base_connector import BaseConnector
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kd_plugins import checks
from kd_plugins.registry import MODELS
from kd_plugins.structures import FeaturesSpec, as_maps

__all__ = ['ReviewKDConnector']


class AttentionFusion(nn.Module):
    """One level's fusion with the coarser level before it.

    ``z = norm(conv1x1(x))``; then ``z = a * z + b * up(coarser)``, with ``(a, b) =
    sigmoid(conv1x1([z, up(coarser)]))`` at every position and ``up`` the nearest
    neighbour. What is compared with the teacher is ``norm(conv3x3(z))``, what the
    next level gets is ``z``.

    Args:
        in_channels: Channels of the student's map.
        mid_channels: Channels of ``z``.
        out_channels: Channels of the teacher's map.
        norm_cfg: Config of both norms.
        coarsest: Whether there is no coarser level.
        size: Height and width to bring ``z`` to, or None to leave it.
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        norm_cfg: Mapping[str, Any],
        coarsest: bool,
        size: tuple[int, int] | None,
    ) -> None:
        super().__init__()
        self.size = size
        self.reduce = _conv_norm(in_channels, mid_channels, 1, norm_cfg)
        self.attention = None if coarsest else nn.Conv2d(2 * mid_channels, 2, 1)
        self.expand = _conv_norm(mid_channels, out_channels, 3, norm_cfg)

    def forward(self, x: Tensor, coarser: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return what is compared with the teacher's map, and what the next level gets."""
        z = self.reduce(x)
        if self.attention is not None:
            assert coarser is not None
            coarser = F.interpolate(coarser, z.shape[2:], mode='nearest')
            own, other = self.attention(torch.cat((z, coarser), dim=1)).sigmoid().split(1, dim=1)
            z = own * z + other * coarser
        if self.size is not None and tuple(z.shape[2:]) != self.size:
            z = F.interpolate(z, self.size, mode='nearest')
        return self.expand(z), z


def _conv_norm(
    in_channels: int, out_channels: int, kernel: int, norm_cfg: Mapping[str, Any]
) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
    # Uniform within sqrt(3 / fan_in), as published.
    nn.init.kaiming_uniform_(conv.weight, nonlinearity='linear')
    try:
        norm = build_norm_layer(dict(norm_cfg), out_channels)[1]
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise ValueError(
            f'ReviewKDConnector.norm_cfg={dict(norm_cfg)!r} gives no norm for {out_channels} '
            f"channels ({' '.join(str(error).split())}): give the config of one of mmcv's norms, "
            "such as dict(type='GN', num_groups=<a divisor of all channels>)."
        ) from error
    return nn.Sequential(conv, norm)


@MODELS.register_module()
class ReviewKDConnector(BaseConnector):
    """Fuse the student's maps from the coarsest to the finest, into the teacher's channels.

    Give it all levels at once: the record of a module that returns several maps (an
    FPN), or of a ``kd_plugins.Features`` recorder. See :class:`AttentionFusion` for
    what happens at a level. It is trained by the student's optimizer.

    Args:
        in_channels: Channels of the student's maps, the finest level first.
        out_channels: Those of the teacher's. None for the same.
        mid_channels: Channels of the fused maps. Published: 256 for FPNs; 512, or fewer
            if the last of ``in_channels`` is smaller, for classifiers.
        norm_cfg: The norm after every convolution. The published one is ``BN`` in
            training mode, whatever the number of pictures;
            ``dict(type='GN', num_groups=32)`` and ``SyncBN`` do not depend on how few
            pictures a GPU has.
        out_sizes: Heights and widths of the teacher's maps (or one number for both),
            where they are others than the student's and always the same. None leaves
            the student's.

    Raises:
        ValueError: On a setting out of range; on other levels or channels than
            ``in_channels``; in training, where a ``BN`` would have one value per channel.

    Source: Chen, Liu, Zhao, Jia, "Distilling Knowledge via Knowledge Review", CVPR 2021,
    arXiv 2104.09044 (ABF and the residual learning framework);
    github.com/dvlab-research/ReviewKD.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: Sequence[int] | None = None,
        mid_channels: int = 256,
        norm_cfg: Mapping[str, Any] | None = None,
        out_sizes: Sequence[int | Sequence[int]] | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(init_cfg)
        name = type(self).__name__
        self.in_channels = _channels(f'{name}.in_channels', in_channels)
        self.out_channels = self.in_channels
        if out_channels is not None:
            self.out_channels = _channels(f'{name}.out_channels', out_channels)
        checks.whole_number(f'{name}.mid_channels', mid_channels)
        levels = len(self.in_channels)
        sizes: Sequence[Any] = [None] * levels if out_sizes is None else out_sizes
        for key, value in (('out_channels', self.out_channels), ('out_sizes', sizes)):
            if len(value) != levels:
                raise checks.refuse(f'{name}.{key}', value, f'one for each of {levels} levels')
        self.out_sizes = [_size(f'{name}.out_sizes', size) for size in sizes]
        self.levels = nn.ModuleList(
            AttentionFusion(
                self.in_channels[i],
                mid_channels,
                self.out_channels[i],
                norm_cfg or dict(type='BN'),
                coarsest=i == levels - 1,
                size=self.out_sizes[i],
            )
            for i in range(levels)
        )

    def check_spec(self, key: str, spec: Any) -> FeaturesSpec | None:
        """Refuse maps that it cannot take; return what it gives, None if that is not known.

        Args:
            key: The config key of this connector.
            spec: What the recorder knows of its record, or None.

        Raises:
            ValueError: Naming the student's maps and ``in_channels``.
        """
        if not isinstance(spec, FeaturesSpec):
            return None
        spec.check_channels(key, self.in_channels)
        strides = spec.strides if not any(self.out_sizes) else None
        return replace(spec, channels=self.out_channels, strides=strides)

    def forward_train(self, feature: Tensor | Sequence[Tensor]) -> list[Tensor]:
        """Return one fused map a level, (N, out_channels, H, W).

        Args:
            feature: The student's maps, (N, in_channels, H, W), the finest first; a
                vector, (N, C), is a map of one position.
        """
        maps = as_maps(feature)
        if tuple(x.shape[1] for x in maps) != self.in_channels:
            raise ValueError(
                f'ReviewKDConnector.in_channels={list(self.in_channels)} does not fit maps of '
                f'shape {[tuple(x.shape) for x in maps]}: give their channels, the finest first.'
            )
        fused: list[Tensor] = []
        coarser = None
        for x, level in reversed(list(zip(maps, self.levels, strict=True))):
            self._check_statistics(x, level)
            out, coarser = level(x, coarser)
            fused.insert(0, out)
        return fused

    @staticmethod
    def _check_statistics(x: Tensor, level: Any) -> None:
        norm = level.reduce[1]
        # Synchronised, it has the values of the other processes as well.
        alone = not isinstance(norm, nn.SyncBatchNorm) or get_world_size() == 1
        if isinstance(norm, _BatchNorm) and norm.training and alone and x.numel() == x.shape[1]:
            raise ValueError(
                f'ReviewKDConnector.norm_cfg: {type(norm).__name__} cannot normalise maps of '
                f"shape {tuple(x.shape)}, one value a channel: give dict(type='GN', "
                'num_groups=32), or more pictures a process (drop_last=True for the last batch).'
            )


def _channels(key: str, value: Any) -> tuple[int, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise checks.refuse(key, value, 'a list with the channels of each level')
    return tuple(checks.whole_number(f'{key}[{i}]', item) for i, item in enumerate(value))


def _size(key: str, value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    pair = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(pair) != 2:
        raise checks.refuse(key, value, 'a number of rows and columns, or (rows, columns)')
    rows, columns = (checks.whole_number(key, side) for side in pair)
    return rows, columns
