"""The ResNeXts of CIFAR, with which CTC was published."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.models.staged import HE_FAN_OUT, StagedBackbone, conv_bn_relu
from kd_plugins.registry import MODELS


class ResNeXtBlock(nn.Module):
    """Narrowing, grouped and widening convolution, beside a shortcut."""

    def __init__(
        self, in_channels: int, out_channels: int, width: int, groups: int, stride: int
    ) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            *conv_bn_relu(in_channels, width, 1),
            *conv_bn_relu(width, width, 3, stride=stride, groups=groups),
            nn.Conv2d(width, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut = nn.Sequential()
        if in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both ways."""
        return F.relu(self.shortcut(x) + self.conv(x))


@MODELS.register_module()
class CIFARResNeXt(StagedBackbone):
    """ResNeXt of ``6n + 2`` layers in three stages, for 32 x 32 pixels.

    mmpretrain's ``ResNeXt`` has the depths and the stem of ImageNet. The maps have 128,
    256 and 512 channels at 32, 16 and 8 pixels.

    Args:
        depth: 32 or another ``6n + 2``.
        groups: Groups of the 3 x 3 convolutions, 16 in ResNeXt32-16x4d.
        base_width: Channels of a group in the last stage but one, 4 there.
        out_indices: Stages, 0 to 2, whose maps to return.
        init_cfg: The published start by default.

    Raises:
        ValueError: On another depth, or a stage that is not there.

    Source: Xie et al., arXiv 1611.05431; as in github.com/DTennant/dt-tradeoff
    (a36516b), models/resnext.py.
    """

    def __init__(
        self,
        depth: int = 32,
        groups: int = 16,
        base_width: int = 4,
        out_indices: Sequence[int] = (2,),
        init_cfg: Any = HE_FAN_OUT,
    ) -> None:
        super().__init__(3, out_indices, init_cfg)
        number, rest = divmod(checks.whole_number('CIFARResNeXt.depth', depth) - 2, 6)
        if rest or number < 1:
            raise checks.refuse(
                'CIFARResNeXt.depth', depth, '6n + 2 layers: 8, 14, 20, 26, 32, ...'
            )
        self.conv1 = nn.Sequential(*conv_bn_relu(3, 32, 3))
        self.blocks = nn.ModuleList()
        before = 32
        for stage, after in enumerate((128, 256, 512)):
            width = groups * (base_width * after // 256)
            blocks = []
            for block in range(number):
                stride = 2 if stage and not block else 1
                blocks.append(ResNeXtBlock(before, after, width, groups, stride))
                before = after
            self.blocks.append(nn.Sequential(*blocks))

    def stages(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """See :class:`StagedBackbone`."""
        yield lambda x: self.blocks[0](self.conv1(x))
        yield from self.blocks[1:]
