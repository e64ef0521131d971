"""The ResNet-18 of pre-activation blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from kd_plugins.models.cifar_wide_resnet import PreActBlock
from kd_plugins.models.staged import StagedBackbone
from kd_plugins.registry import MODELS


class ActivatedBlock(PreActBlock):
    """A pre-activation block whose shortcut is the activated input everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both ways."""
        active = self.relu(self.bn1(x))
        out = self.conv2(self.relu(self.bn2(self.conv1(active))))
        return out + (active if self.shortcut is None else self.shortcut(active))


@MODELS.register_module()
class CIFARPreActResNet(StagedBackbone):
    """Pre-activation ResNet of four stages for 32 x 32 pixels, as Zipf's label smoothing has it.

    The maps have 64, 128, 256 and 512 channels at 32, 16, 8 and 4 pixels. They are
    sums that no norm or activation has seen, the last one too; the first norm
    follows the stem.

    Args:
        depth: 10, 18 or 34.
        out_indices: Stages, 0 to 3, whose maps to return.
        init_cfg: torch's own start by default, as published.

    Raises:
        ValueError: On another depth, or a stage that is not there.

    Source: He et al., arXiv 1603.05027; as in github.com/megvii-research/zipfls
    (108e27a), pytorch_zipfls/cifar_models/resnet.py.
    """

    blocks = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}

    def __init__(self, depth: int, out_indices: Sequence[int] = (3,), init_cfg: Any = None) -> None:
        super().__init__(4, out_indices, init_cfg)
        if depth not in self.blocks:
            raise ValueError(f'CIFARPreActResNet.depth={depth!r} is not there: give 10, 18 or 34.')
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        width = 64
        for stage, number in enumerate(self.blocks[depth]):
            channels = 64 * 2**stage
            first = ActivatedBlock(width, channels, 1 if stage == 0 else 2)
            rest = (ActivatedBlock(channels, channels, 1) for _ in range(number - 1))
            self.add_module(f'layer{stage + 1}', nn.Sequential(first, *rest))
            width = channels

    def stages(self) -> Iterator[Callable[[Tensor], Tensor]]:
        yield lambda x: self.layer1(self.relu(self.bn1(self.conv1(x))))
        yield self.layer2
        yield self.layer3
        yield self.layer4

    @staticmethod
    def published_key(key: str) -> str:
        """Return our name of a weight of the published network."""
        return key.replace('.shortcut.0.', '.shortcut.')
