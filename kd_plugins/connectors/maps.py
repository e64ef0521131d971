"""Layers that bring maps to the teacher's channels, one a level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmcv.cnn import ConvModule
from mmrazor.models.architectures.connectors.base_connector import BaseConnector
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.registry import MODELS
from kd_plugins.structures import FeaturesSpec, as_maps

__all__ = ['MapsConnector']


@MODELS.register_module()
class MapsConnector(BaseConnector):
    """A 1 x 1 convolution, and a norm, for every level whose channels differ.

    Give it the record of a ``kd_plugins.Features`` recorder. Levels of the same channels
    stay as they are.

    Args:
        in_channels: Channels of the student's maps, the first level first.
        out_channels: Those of the teacher's.
        norm_cfg: The norm after each convolution; None for none. ``BN`` knows the pictures
            of its process; ``dict(type='GN', num_groups=32)`` and ``SyncBN`` do not depend
            on how few these are.

    Raises:
        ValueError: On a setting out of range, or maps of other channels.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: Sequence[int],
        norm_cfg: Mapping[str, Any] | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(init_cfg)
        for key, value in (('in_channels', in_channels), ('out_channels', out_channels)):
            if isinstance(value, (str, int)) or not len(value):
                raise checks.refuse(
                    f'MapsConnector.{key}', value, 'a list of channels, one a level'
                )
            for channels in value:
                checks.whole_number(f'MapsConnector.{key}', channels)
        if len(in_channels) != len(out_channels):
            raise checks.refuse(
                'MapsConnector.out_channels',
                out_channels,
                f'one for each of {len(in_channels)} levels',
            )
        self.in_channels, self.out_channels = tuple(in_channels), tuple(out_channels)
        norm = None if norm_cfg is None else dict(norm_cfg)
        self.levels = nn.ModuleList(
            nn.Identity()
            if before == after
            else ConvModule(before, after, 1, norm_cfg=norm, act_cfg=None)
            for before, after in zip(self.in_channels, self.out_channels, strict=True)
        )

    def check_spec(self, key: str, spec: Any) -> FeaturesSpec | None:
        """Refuse maps that it cannot take; return what it gives, None if that is not known.

        Args:
            key: The config key of this connector.
            spec: What the recorder knows of its record, or None.

        Raises:
            ValueError: Naming the student's maps and ``in_channels``.
        """
        if not isinstance(spec, FeaturesSpec):
            return None
        spec.check_channels(key, self.in_channels)
        return replace(spec, channels=self.out_channels)

    def forward_train(self, feature: Tensor | Sequence[Tensor]) -> list[Tensor]:
        """Return one map a level, (N, out_channels, H, W).

        Args:
            feature: The student's maps, (N, in_channels, H, W).
        """
        maps = as_maps(feature)
        if tuple(x.shape[1] for x in maps) != self.in_channels:
            raise ValueError(
                f'MapsConnector.in_channels={list(self.in_channels)} does not fit maps of shape '
                f'{[tuple(x.shape) for x in maps]}: give their channels.'
            )
        return [level(x) for level, x in zip(self.levels, maps, strict=True)]
