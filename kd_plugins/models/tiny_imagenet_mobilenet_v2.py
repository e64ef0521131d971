"""MobileNetV2 as the Tiny-ImageNet tables have it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from kd_plugins.models.staged import StagedBackbone
from kd_plugins.registry import MODELS

#: Width, number, first stride and inner width factor of the blocks of every stage.
STAGES = (
    (16, 1, 1, 1), (24, 2, 2, 6), (32, 3, 2, 6), (64, 4, 2, 6),
    (96, 3, 1, 6), (160, 3, 1, 6), (320, 1, 1, 6),
)  # fmt: skip


def _layer(in_channels: int, out_channels: int, size: int, **kwargs: Any) -> list[nn.Module]:
    # With biases, although norms follow, and ReLU6.
    conv = nn.Conv2d(in_channels, out_channels, size, **kwargs)
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU6(inplace=True)]


class LinearBottleneck(nn.Module):
    """Widen, convolve every channel on its own, narrow; with a shortcut where shapes allow."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, factor: int) -> None:
        super().__init__()
        hidden = in_channels * factor
        self.residual = nn.Sequential(
            *_layer(in_channels, hidden, 1),
            *_layer(hidden, hidden, 3, stride=stride, padding=1, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1),
            nn.BatchNorm2d(out_channels),
        )
        self.adds = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return the narrowed map, added to the input where shapes allow."""
        return x + self.residual(x) if self.adds else self.residual(x)


@MODELS.register_module()
class TinyImageNetMobileNetV2(StagedBackbone):
    """MobileNetV2 of full width for 64 x 64 pixels, which it leaves at 9 x 9.

    The 1 x 1 stem pads the picture to 66 x 66 pixels, as published. Another
    network than :class:`CIFARMobileNetV2`: ReLU6, convolutions with biases, and
    halvings in stages 1, 2 and 3.

    Args:
        out_indices: Stages whose maps to return: 0 to 6, or 7 for the last 1 x 1
            convolution.
        init_cfg: None, the published start, is torch's own.

    Raises:
        ValueError: If there is no such stage.

    Source: Sandler et al., arXiv 1801.04381; as in mdistiller (a08d46f),
    models/cifar/mv2_tinyimagenet.py.
    """

    def __init__(self, out_indices: Sequence[int] = (7,), init_cfg: Any = None) -> None:
        super().__init__(len(STAGES) + 1, out_indices, init_cfg)
        self.pre = nn.Sequential(*_layer(3, 32, 1, padding=1))
        in_channels = 32
        self.blocks = nn.ModuleList()
        for out_channels, number, first_stride, factor in STAGES:
            blocks = []
            for stride in [first_stride] + [1] * (number - 1):
                blocks.append(LinearBottleneck(in_channels, out_channels, stride, factor))
                in_channels = out_channels
            self.blocks.append(nn.Sequential(*blocks))
        self.conv1 = nn.Sequential(*_layer(in_channels, 1280, 1))

    def stages(self) -> Iterator[Callable[[Tensor], Tensor]]:
        yield lambda x: self.blocks[0](self.pre(x))
        yield from self.blocks[1:]
        yield self.conv1

    @staticmethod
    def published_key(key: str) -> str:
        """Return our name of a weight of the published network."""
        key = re.sub(r'^stage([17])\.', r'stage\1.0.', key)
        return re.sub(r'^stage(\d)\.', lambda match: f'blocks.{int(match[1]) - 1}.', key)
