"""ShuffleNetV1 as the CIFAR tables have it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmpretrain.models.utils import channel_shuffle
from torch import Tensor, nn

from kd_plugins.models.staged import StagedBackbone
from kd_plugins.registry import MODELS


class ShuffleUnit(nn.Module):
    """Grouped 1 x 1, depthwise 3 x 3 and grouped 1 x 1 convolutions.

    With ``stride`` 2 the pooled input is appended to the result, else the
    input is added to it; ``out_channels`` counts what was appended.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, first_groups: int, groups: int
    ) -> None:
        super().__init__()
        new = out_channels - in_channels if stride == 2 else out_channels
        # A quarter of the new channels; mmpretrain's unit takes one of all channels.
        hidden = new // 4
        self.groups = first_groups
        self.conv1 = nn.Conv2d(in_channels, hidden, 1, groups=first_groups, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, new, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(new)
        self.pool = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated map."""
        out = channel_shuffle(F.relu(self.bn1(self.conv1(x))), self.groups)
        out = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(out)))))
        return F.relu(out + x if self.pool is None else torch.cat([out, self.pool(x)], dim=1))


@MODELS.register_module()
class CIFARShuffleNetV1(StagedBackbone):
    """ShuffleNetV1 with 3 groups for 32 x 32 pixels.

    Unlike mmpretrain's ``ShuffleNetV1`` its stem is a 1 x 1 convolution that
    keeps the size, and its units are narrower and shuffle before the depthwise
    convolution, after which they activate. The maps have 240, 480 and 960
    channels at 16, 8 and 4 pixels.

    Args:
        out_indices: Stages, 0 to 2, whose maps to return.
        init_cfg: None, the published start, is torch's own.

    Raises:
        ValueError: If there is no such stage.

    Source: Zhang et al., arXiv 1707.01083; as in
    github.com/HobbitLong/RepDistiller and mdistiller (a08d46f),
    models/ShuffleNetv1.py.
    """

    def __init__(self, out_indices: Sequence[int] = (2,), init_cfg: Any = None) -> None:
        super().__init__(3, out_indices, init_cfg)
        self.conv1 = nn.Conv2d(3, 24, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        # With only 24 channels, the first convolution of all is not grouped.
        self.layer1 = _stage(24, 240, units=4, first_groups=1)
        self.layer2 = _stage(240, 480, units=8, first_groups=3)
        self.layer3 = _stage(480, 960, units=4, first_groups=3)

    def stages(self) -> Iterator[Callable[[Tensor], Tensor]]:
        yield lambda x: self.layer1(F.relu(self.bn1(self.conv1(x))))
        yield self.layer2
        yield self.layer3


def _stage(in_channels: int, out_channels: int, units: int, first_groups: int) -> nn.Sequential:
    first = ShuffleUnit(in_channels, out_channels, 2, first_groups, 3)
    rest = (ShuffleUnit(out_channels, out_channels, 1, 3, 3) for _ in range(units - 1))
    return nn.Sequential(first, *rest)
