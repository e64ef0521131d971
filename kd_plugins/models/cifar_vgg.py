"""VGG with batch norm for small pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from kd_plugins.models.staged import HE_FAN_OUT, StagedBackbone
from kd_plugins.registry import MODELS

#: Convolutions in each of the five blocks.
CONVOLUTIONS = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
WIDTHS = (64, 128, 256, 512, 512)


@MODELS.register_module()
class CIFARVGG(StagedBackbone):
    """VGG with batch norm, its pooling fitted to small pictures.

    mmpretrain's ``VGG`` has no 8 layers, no biases beside its norms, and pools
    five times, which leaves 1 x 1 of 32 x 32 pixels. This one pools three times
    between its five blocks, and leaves 4 x 4. A block's map is taken after its
    last ReLU.

    Args:
        depth: 8, 11, 13, 16 or 19, the linear classifier counted as three
            layers.
        num_pools: 3 for 32 x 32 pixels, 4 for 64 x 64.
        out_indices: Blocks, 0 to 4, whose maps to return.
        init_cfg: The published start by default.

    Raises:
        ValueError: On another depth or number of pools, a block that is not
            there, or a picture too small to be pooled so often.

    Source: Simonyan and Zisserman, arXiv 1409.1556; as in
    github.com/HobbitLong/RepDistiller and mdistiller (a08d46f), models/vgg.py.
    """

    def __init__(
        self,
        depth: int,
        num_pools: int = 3,
        out_indices: Sequence[int] = (4,),
        init_cfg: Any = HE_FAN_OUT,
    ) -> None:
        super().__init__(len(WIDTHS), out_indices, init_cfg)
        if depth not in CONVOLUTIONS:
            raise ValueError(f'CIFARVGG.depth={depth!r} is not one of {list(CONVOLUTIONS)}.')
        if num_pools not in range(len(WIDTHS)):
            raise ValueError(
                f'CIFARVGG.num_pools={num_pools!r} does not fit between five blocks: give 3 for '
                'pictures of 32 x 32 pixels, 4 for 64 x 64.'
            )
        self.num_pools = num_pools
        self.pool = nn.MaxPool2d(2)
        in_channels = 3
        for index, (number, width) in enumerate(zip(CONVOLUTIONS[depth], WIDTHS, strict=True)):
            layers: list[nn.Module] = []
            for _ in range(number):
                conv = nn.Conv2d(in_channels, width, 3, padding=1)
                layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                in_channels = width
            self.add_module(f'block{index}', nn.Sequential(*layers))

    def stages(self) -> Iterator[Callable[[Tensor], Tensor]]:
        for index in range(len(WIDTHS)):
            block = getattr(self, f'block{index}')
            yield nn.Sequential(self.pool, block) if 0 < index <= self.num_pools else block

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the chosen maps of pictures of shape (N, 3, H, W)."""
        if min(x.shape[-2:]) < 2**self.num_pools:
            raise ValueError(
                f'CIFARVGG.num_pools={self.num_pools} halves the picture so often that it must '
                f'have {2**self.num_pools} pixels or more on each side, but it has '
                f'{tuple(x.shape[-2:])}: give a smaller num_pools or larger pictures.'
            )
        return super().forward(x)
