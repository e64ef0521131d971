"""ShuffleNetV2 as the CIFAR tables have it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmpretrain.models.backbones.shufflenet_v2 import ShuffleNetV2
from torch import nn

from kd_plugins.registry import MODELS

#: Where the first unit of a stage keeps the published ``conv1`` to ``conv5``.
_FIRST_UNIT = ('branch1.0', 'branch1.1', 'branch2.0', 'branch2.1', 'branch2.2')


@MODELS.register_module()
class CIFARShuffleNetV2(ShuffleNetV2):
    """mmpretrain's ShuffleNetV2 with another stem and start, for 32 x 32 pixels.

    The stem is a 1 x 1 convolution, without pooling. The maps have 116, 232,
    464 and 1024 channels at 16, 8, 4 and 4 pixels.

    Args:
        out_indices: Stages whose maps to return: 0 to 2, or 3 for the last
            1 x 1 convolution.
        init_cfg: None, the published start, is torch's own.
        **kwargs: Further options of ``ShuffleNetV2``.

    Source: Ma et al., arXiv 1807.11164; as in
    github.com/HobbitLong/RepDistiller and mdistiller (a08d46f),
    models/ShuffleNetv2.py.
    """

    def __init__(
        self, out_indices: Sequence[int] = (3,), init_cfg: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(out_indices=out_indices, init_cfg=init_cfg, **kwargs)
        self.conv1 = ConvModule(3, 24, 1, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)
        self.maxpool = nn.Identity()

    def init_weights(self) -> None:
        """Start as torch does, unless ``init_cfg`` says otherwise."""
        # Past mmpretrain's own start.
        BaseModule.init_weights(self)
        if self.init_cfg is None:
            for module in self.modules():
                if isinstance(module, (nn.Conv2d, nn.modules.batchnorm._BatchNorm)):
                    module.reset_parameters()

    @staticmethod
    def published_key(key: str) -> str:
        """Return our name of a weight of the published network."""
        key = re.sub(r'^(conv|bn)1\.', r'conv1.\1.', key)
        key = re.sub(r'^(conv|bn)2\.', r'layers.3.\1.', key)
        return re.sub(r'^layer(\d)\.(\d+)\.(conv|bn)(\d)\.', _unit_key, key)


def _unit_key(match: re.Match[str]) -> str:
    stage, unit, kind, number = match.groups()
    first = _FIRST_UNIT[int(number) - 1]
    place = first if unit == '0' else f'branch2.{int(number) - 1}'
    return f'layers.{int(stage) - 1}.{unit}.{place}.{kind}.'
