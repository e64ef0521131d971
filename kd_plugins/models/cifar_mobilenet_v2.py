"""MobileNetV2 as the CIFAR tables have it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from kd_plugins.models.staged import HE_FAN_OUT, StagedBackbone, conv_bn_relu
from kd_plugins.registry import MODELS

#: Width, number and first stride of the blocks of every stage.
STAGES = ((16, 1, 1), (24, 2, 1), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))


class InvertedResidual(nn.Module):
    """Widen, convolve every channel on its own, narrow; with a shortcut where shapes allow."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expand_ratio: int) -> None:
        super().__init__()
        hidden = in_channels * expand_ratio
        self.conv = nn.Sequential(
            *conv_bn_relu(in_channels, hidden, 1),
            *conv_bn_relu(hidden, hidden, 3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.adds = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return the narrowed map, added to the input where shapes allow."""
        return x + self.conv(x) if self.adds else self.conv(x)


@MODELS.register_module()
class CIFARMobileNetV2(StagedBackbone):
    """MobileNetV2 of half the width for 32 x 32 pixels, which it leaves at 2 x 2.

    Unlike mmpretrain's ``MobileNetV2`` it cuts widths to whole numbers instead
    of multiples of 8, widens in the first block too, activates with ReLU, and
    halves the picture in the stem, in stages 2, 3 and 5, and nowhere else.

    Args:
        widen_factor: Factor of all widths but the last one, 1280.
        expand_ratio: How much wider blocks are inside, from the second stage on.
        out_indices: Stages whose maps to return: 0 to 6, or 7 for the last 1 x 1
            convolution.
        init_cfg: The published start by default.

    Raises:
        ValueError: If there is no such stage.

    Source: Sandler et al., arXiv 1801.04381; as in
    github.com/HobbitLong/RepDistiller and mdistiller (a08d46f),
    models/mobilenetv2.py, ``mobile_half``.
    """

    def __init__(
        self,
        widen_factor: float = 0.5,
        expand_ratio: int = 6,
        out_indices: Sequence[int] = (7,),
        init_cfg: Any = HE_FAN_OUT,
    ) -> None:
        super().__init__(len(STAGES) + 1, out_indices, init_cfg)
        in_channels = int(32 * widen_factor)
        self.conv1 = nn.Sequential(*conv_bn_relu(3, in_channels, 3, stride=2))
        self.blocks = nn.ModuleList()
        for index, (width, number, first_stride) in enumerate(STAGES):
            out_channels = int(width * widen_factor)
            blocks = []
            for stride in [first_stride] + [1] * (number - 1):
                ratio = expand_ratio if index else 1
                blocks.append(InvertedResidual(in_channels, out_channels, stride, ratio))
                in_channels = out_channels
            self.blocks.append(nn.Sequential(*blocks))
        self.conv2 = nn.Sequential(*conv_bn_relu(in_channels, 1280, 1))

    def stages(self) -> Iterator[Callable[[Tensor], Tensor]]:
        yield lambda x: self.blocks[0](self.conv1(x))
        yield from self.blocks[1:]
        yield self.conv2
