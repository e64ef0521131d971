"""OFA-KD: branches that say classes by what a stage of the student knows."""

from __future__ import annotations

from typing import Any

import torch
from mmrazor.models.architectures.connectors.base_connector import BaseConnector
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.registry import MODELS

__all__ = ['OFAMapBranch', 'OFATokenBranch']


class _Branch(BaseConnector):
    """Base: settings that are whole numbers, and the published start."""

    def __init__(self, init_cfg: Any, **settings: int) -> None:
        super().__init__(init_cfg)
        for key, value in settings.items():
            least = 0 if key in ('halvings', 'merges', 'extra_tokens') else 1
            checks.whole_number(f'{type(self).__name__}.{key}', value, least)

    def _start(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
            elif isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
            else:
                continue
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@MODELS.register_module()
class OFAMapBranch(_Branch):
    """Logits by a map of one stage of a convolutional student.

    Each of ``halvings`` blocks halves the map: a depthwise 3 x 3 convolution of stride 2, a
    pointwise one, BN, ReLU, then the same without a stride. They double the channels, but the
    last, which gives ``out_channels``. Without any, a 1 x 1 convolution with bias. Then the
    average over positions and a linear layer.

    Args:
        in_channels: Channels of the map.
        num_classes: How many logits.
        halvings: How many blocks. Published: 4 minus the stage, counted from 1.
        out_channels: Channels that the linear layer reads. Published: those of the student's or
            of the teacher's last stage, whichever are more.

    Raises:
        ValueError: On a setting out of range, or a map of other channels.

    Source: Hao et al., NeurIPS 2023, arXiv 2310.19444; github.com/Hao840/OFAKD at f7bb896,
    distillers/ofa.py.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        halvings: int,
        out_channels: int,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(
            init_cfg,
            in_channels=in_channels,
            num_classes=num_classes,
            halvings=halvings,
            out_channels=out_channels,
        )
        self.in_channels = in_channels
        widths = [in_channels * 2**i for i in range(halvings)] + [out_channels]
        blocks: list[nn.Module] = [
            _halving(*pair) for pair in zip(widths, widths[1:], strict=False)
        ]
        self.body = nn.Sequential(*(blocks or [nn.Conv2d(in_channels, out_channels, 1)]))
        self.fc = nn.Linear(out_channels, num_classes)
        self._start()

    def forward_train(self, feature: Tensor) -> Tensor:
        """Return logits, (N, num_classes), by a map, (N, in_channels, H, W)."""
        if not isinstance(feature, Tensor) or feature.dim() != 4 or (
            feature.shape[1] != self.in_channels
        ):  # fmt: skip
            raise ValueError(
                f'OFAMapBranch.in_channels={self.in_channels} does not fit {_kind(feature)}: '
                'record a map (N, C, H, W) and give its channels; tokens take OFATokenBranch.'
            )
        return self.fc(self.body(feature).mean(dim=(2, 3)))


@MODELS.register_module()
class OFATokenBranch(_Branch):
    """Logits by the tokens of one stage of a transformer.

    Each of ``merges`` steps joins 2 x 2 patches: layer norm of the four, a linear layer without
    bias, the first to ``out_channels``, and GELU, which is left out after the last of several.
    Then ``blocks`` transformer blocks, and a linear layer of the class token or, without one, of
    the mean. It needs mmpretrain.

    Args:
        in_channels: Channels of the tokens.
        num_classes: How many logits.
        merges: How many steps. Published: until 7 x 7 patches are left, 1 for 14 x 14.
        blocks: How many transformer blocks. Published: 4 minus the stage, counted from 1, and at
            least 1.
        out_channels: Channels of the blocks, those of the student's last stage; None for
            ``in_channels``.
        num_heads: Attention heads of a block; published: 4.
        extra_tokens: How many tokens come before the patches; of several the first is the class
            token.

    Raises:
        ValueError: On a setting out of range, or tokens that do not fit or cannot be halved.

    Source: as :class:`OFAMapBranch`.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        merges: int,
        blocks: int,
        out_channels: int | None = None,
        num_heads: int = 4,
        extra_tokens: int = 0,
        init_cfg: Any = None,
    ) -> None:
        width = in_channels if out_channels is None else out_channels
        super().__init__(
            init_cfg,
            in_channels=in_channels,
            num_classes=num_classes,
            merges=merges,
            blocks=blocks,
            out_channels=width,
            num_heads=num_heads,
            extra_tokens=extra_tokens,
        )
        if width != in_channels and (extra_tokens or not merges):
            raise checks.refuse(
                'OFATokenBranch.out_channels',
                out_channels,
                f'in_channels={in_channels}, since nothing widens class tokens, or patches that '
                'are not merged',
            )
        if width % num_heads:
            raise checks.refuse('OFATokenBranch.num_heads', num_heads, f'a divisor of {width}')
        from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer

        self.in_channels, self.extra_tokens = in_channels, extra_tokens
        self.merging = nn.ModuleList(
            _merging(in_channels if i == 0 else width, width, gelu=i == 0 or i < merges - 1)
            for i in range(merges)
        )
        self.blocks = nn.Sequential(
            *(
                TransformerEncoderLayer(
                    width,
                    num_heads,
                    feedforward_channels=4 * width,
                    qkv_bias=False,
                    norm_cfg=dict(type='LN', eps=1e-5),
                )
                for _ in range(blocks)
            )
        )
        self.fc = nn.Linear(width, num_classes)
        self._start()

    def forward_train(self, feature: Tensor) -> Tensor:
        """Return logits, (N, num_classes), by tokens, (N, L, in_channels)."""
        if not isinstance(feature, Tensor) or feature.dim() != 3 or (
            feature.shape[2] != self.in_channels
        ):  # fmt: skip
            raise ValueError(
                f'OFATokenBranch.in_channels={self.in_channels} does not fit {_kind(feature)}: '
                'record tokens (N, L, C) and give their channels; maps take OFAMapBranch.'
            )
        extra, patches = feature[:, : self.extra_tokens], feature[:, self.extra_tokens :]
        side = round(patches.shape[1] ** 0.5)
        if side**2 != patches.shape[1] or side % 2 ** len(self.merging) or not side:
            raise ValueError(
                f'OFATokenBranch.merges={len(self.merging)}, extra_tokens={self.extra_tokens}: '
                f'{patches.shape[1]} patches make no square whose side can be halved so often.'
            )
        for merging in self.merging:
            grid = patches.unflatten(1, (side, side))
            quarters = [grid[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
            patches = merging(torch.cat(quarters, dim=-1).flatten(1, 2))
            side //= 2
        tokens = self.blocks(torch.cat([extra, patches], dim=1) if self.extra_tokens else patches)
        return self.fc(tokens[:, 0] if self.extra_tokens else tokens.mean(dim=1))


def _halving(channels_in: int, channels_out: int) -> nn.Sequential:
    """Return two depthwise separable convolutions, the first of stride 2."""
    layers: list[nn.Module] = []
    for stride, width in ((2, channels_in), (1, channels_out)):
        layers += [
            nn.Conv2d(
                channels_in, channels_in, 3, stride, padding=1, groups=channels_in, bias=False
            ),
            nn.Conv2d(channels_in, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


def _merging(channels_in: int, channels_out: int, gelu: bool) -> nn.Sequential:
    layers = [nn.LayerNorm(4 * channels_in), nn.Linear(4 * channels_in, channels_out, bias=False)]
    return nn.Sequential(*layers, *([nn.GELU()] if gelu else []))


def _kind(feature: Any) -> str:
    is_tensor = isinstance(feature, Tensor)
    return f'{tuple(feature.shape)}' if is_tensor else f'a {type(feature).__name__}'
