"""PyramidNets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.models.staged import HE_FAN_OUT, StagedBackbone
from kd_plugins.registry import MODELS


class PyramidBottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions between four norms, and a shortcut without weights.

    The shortcut is averaged over 2 x 2 pixels where the block strides, and the
    channels that it lacks are zeros.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn4 = nn.BatchNorm2d(4 * channels)
        self.relu = nn.ReLU(inplace=True)
        self.stride = stride
        self.missing = 4 * channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both ways."""
        out = self.conv1(self.bn1(x))
        out = self.conv2(self.relu(self.bn2(out)))
        out = self.bn4(self.conv3(self.relu(self.bn3(out))))
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride, ceil_mode=True)
        return out + F.pad(x, (0, 0, 0, 0, 0, self.missing))


@MODELS.register_module()
class CIFARPyramidNet(StagedBackbone):
    """PyramidNet of bottlenecks for 32 x 32 pixels, whose width grows in every block.

    Three stages of ``(depth - 2) / 9`` blocks at 32, 16 and 8 pixels. The width grows
    by equal steps from 16 to ``16 + alpha``, rounded to whole channels; a map has four
    times as many, 384, 704 and 1024 with the published 240. Only the last map has
    passed a norm and a ReLU.

    Args:
        depth: 200, 164 or another ``9n + 2``.
        alpha: How much the width grows: 240 or 270 in the papers' tables.
        out_indices: Stages, 0 to 2, whose maps to return.
        init_cfg: The published start by default.

    Raises:
        ValueError: On another depth, an ``alpha`` below 0 or a stage that is not there.

    Source: Han, Kim, Kim, "Deep Pyramidal Residual Networks", CVPR 2017, arXiv
    1610.02915; as in github.com/implus/RecursiveMix-pytorch (ed381bf),
    models_cifar/pyramidnet.py.
    """

    def __init__(
        self,
        depth: int,
        alpha: int,
        out_indices: Sequence[int] = (2,),
        init_cfg: Any = HE_FAN_OUT,
    ) -> None:
        super().__init__(3, out_indices, init_cfg)
        blocks, rest = divmod(depth - 2, 9)
        if rest or blocks < 1:
            raise ValueError(
                f'CIFARPyramidNet.depth={depth!r} is not 9n + 2: give 164 or 200, for example.'
            )
        step = checks.number('CIFARPyramidNet.alpha', alpha, least=0) / (3 * blocks)
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        channels, width = 16, 16.0
        for stage in range(3):
            layer = nn.Sequential()
            for block in range(blocks):
                width += step
                stride = 2 if stage > 0 and block == 0 else 1
                layer.append(PyramidBottleneck(channels, round(width), stride))
                channels = 4 * round(width)
            self.add_module(f'layer{stage + 1}', layer)
        self.bn_final = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def stages(self) -> Iterator[Callable[[Tensor], Tensor]]:
        yield lambda x: self.layer1(self.bn1(self.conv1(x)))
        yield self.layer2
        yield lambda x: self.relu(self.bn_final(self.layer3(x)))
