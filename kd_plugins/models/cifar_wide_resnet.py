"""Wide ResNets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from kd_plugins.models.staged import HE_FAN_OUT, StagedBackbone
from kd_plugins.registry import MODELS


class PreActBlock(nn.Module):
    """Norm, ReLU and 3 x 3 convolution, twice, and a shortcut.

    Where the channels change, the shortcut is a 1 x 1 convolution of the
    activated input.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module | None = None
        if in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both ways."""
        active = self.relu(self.bn1(x))
        out = self.conv2(self.relu(self.bn2(self.conv1(active))))
        return out + (x if self.shortcut is None else self.shortcut(active))


@MODELS.register_module()
class CIFARWideResNet(StagedBackbone):
    """Wide ResNet of ``6n + 4`` layers, without dropout, for 32 x 32 pixels.

    The maps have 16, 32 and 64 times ``widen_factor`` channels at 32, 16 and 8
    pixels. Those of the first two stages are sums that no norm or activation
    has seen, as the next stage takes them; the last one has passed both.

    Args:
        depth: 16, 40 or another ``6n + 4``.
        widen_factor: 1 or 2 in the papers' tables.
        out_indices: Stages, 0 to 2, whose maps to return.
        init_cfg: The published start by default.

    Raises:
        ValueError: On another depth, or a stage that is not there.

    Source: Zagoruyko and Komodakis, arXiv 1605.07146; as in
    github.com/HobbitLong/RepDistiller and mdistiller (a08d46f), models/wrn.py.
    """

    def __init__(
        self,
        depth: int,
        widen_factor: int = 1,
        out_indices: Sequence[int] = (2,),
        init_cfg: Any = HE_FAN_OUT,
    ) -> None:
        super().__init__(3, out_indices, init_cfg)
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(
                f'CIFARWideResNet.depth={depth!r} is not 6n + 4: give 16 or 40, for example.'
            )
        widths = [16, 16 * widen_factor, 32 * widen_factor, 64 * widen_factor]
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.block1 = _stage(widths[0], widths[1], blocks, 1)
        self.block2 = _stage(widths[1], widths[2], blocks, 2)
        self.block3 = _stage(widths[2], widths[3], blocks, 2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.relu = nn.ReLU(inplace=True)

    def stages(self) -> Iterator[Callable[[Tensor], Tensor]]:
        yield lambda x: self.block1(self.conv1(x))
        yield self.block2
        yield lambda x: self.relu(self.bn1(self.block3(x)))

    @staticmethod
    def published_key(key: str) -> str:
        """Return our name of a weight of the published network."""
        return key.replace('.layer.', '.').replace('convShortcut', 'shortcut')


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = PreActBlock(in_channels, out_channels, stride)
    rest = (PreActBlock(out_channels, out_channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)
