"""MobileNetV1."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from kd_plugins.models.staged import StagedBackbone, conv_bn_relu
from kd_plugins.registry import MODELS

#: Output channels and stride of the stem and of the 13 separable convolutions.
LAYERS = (
    (32, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    *[(512, 1)] * 5, (1024, 2), (1024, 1),
)  # fmt: skip


@MODELS.register_module()
class MobileNetV1(StagedBackbone):
    """MobileNetV1 of full width, for ImageNet.

    Args:
        out_indices: Layers, 0 (the stem) to 13, whose maps to return. Those
            before each halving, which feature distillation uses, are 3, 5, 11
            and 13.
        init_cfg: None, the published start, is torch's own.

    Raises:
        ValueError: If there is no such layer.

    Source: Howard et al., arXiv 1704.04861; as in mdistiller (a08d46f),
    models/imagenet/mobilenetv1.py.
    """

    def __init__(self, out_indices: Sequence[int] = (13,), init_cfg: Any = None) -> None:
        super().__init__(len(LAYERS), out_indices, init_cfg)
        (in_channels, stride), *rest = LAYERS
        self.model = nn.Sequential(nn.Sequential(*conv_bn_relu(3, in_channels, 3, stride=stride)))
        for out_channels, stride in rest:
            depthwise = conv_bn_relu(in_channels, in_channels, 3, stride=stride, groups=in_channels)
            pointwise = conv_bn_relu(in_channels, out_channels, 1)
            self.model.append(nn.Sequential(*depthwise, *pointwise))
            in_channels = out_channels

    def stages(self) -> Iterator[Callable[[Tensor], Tensor]]:
        yield from self.model
