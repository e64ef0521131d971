"""The ResNets of 6n + 2 layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmpretrain.models.backbones.resnet import BasicBlock
from mmpretrain.models.backbones.resnet_cifar import ResNet_CIFAR

from kd_plugins.registry import MODELS


@MODELS.register_module()
class CIFARResNet(ResNet_CIFAR):
    """ResNet of ``6n + 2`` layers in three stages, for 32 x 32 pixels.

    The depths of mmpretrain's ``ResNet_CIFAR`` are those of ImageNet; its
    blocks, stem and options are used here. The maps have ``base_channels``
    times 1, 2 and 4 channels at 32, 16 and 8 pixels.

    Args:
        depth: 8, 14, 20, 32, 44, 56, 110 or another ``6n + 2``.
        stem_channels: Channels of the first convolution; 32 in resnet8x4 and
            resnet32x4.
        base_channels: Channels of the first stage; 64 in resnet8x4 and
            resnet32x4.
        out_indices: Stages, 0 to 2, whose maps to return.
        zero_init_residual: Start residual branches at zero, which the published
            networks do not.
        **kwargs: Further options of ``ResNet_CIFAR``.

    Raises:
        ValueError: On another depth.

    Source: He et al., arXiv 1512.03385, section 4.2; as in
    github.com/HobbitLong/RepDistiller and mdistiller (a08d46f), models/resnet.py.
    """

    arch_settings = {6 * n + 2: (BasicBlock, (n, n, n)) for n in range(1, 201)}

    def __init__(
        self,
        depth: int,
        stem_channels: int = 16,
        base_channels: int = 16,
        out_indices: Sequence[int] = (2,),
        zero_init_residual: bool = False,
        **kwargs: Any,
    ) -> None:
        if depth not in self.arch_settings:
            raise ValueError(
                f'CIFARResNet.depth={depth!r} is not 6n + 2: give 8, 14, 20, 32, 44, 56 or 110. '
                "ResNet-18 and ResNet-50 for 32 x 32 pixels are type='ResNet_CIFAR'."
            )
        super().__init__(
            depth,
            stem_channels=stem_channels,
            base_channels=base_channels,
            num_stages=3,
            strides=(1, 2, 2),
            dilations=(1, 1, 1),
            out_indices=out_indices,
            zero_init_residual=zero_init_residual,
            **kwargs,
        )
