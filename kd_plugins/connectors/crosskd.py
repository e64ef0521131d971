"""CrossKD between heads of different widths."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mmrazor.models.architectures.connectors.base_connector import BaseConnector
from torch import nn

from kd_plugins import checks
from kd_plugins.registry import MODELS
from kd_plugins.structures import Branches, BranchesSpec

__all__ = ['CrossKDConnector']


@MODELS.register_module()
class CrossKDConnector(BaseConnector):
    """Bring maps inside of the student's head to the width of the teacher's.

    One 1 x 1 convolution for the classification branch and one for the box branch, which the
    levels share, as they share the head; without bias, which the alignment would subtract. For a
    ``kd_plugins.CrossHead`` between heads of different widths; the published code has none and
    asks for equal widths.

    Args:
        in_channels: Channels of the student's branches there.
        out_channels: Those of the teacher's.

    Raises:
        ValueError: On a setting out of range, or maps of other channels.

    Source: asked for by users of the published code, whose authors propose a convolution:
    github.com/jbwang1997/CrossKD, issues 1 and 8.
    """

    def __init__(self, in_channels: int, out_channels: int, init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        self.in_channels = checks.whole_number('CrossKDConnector.in_channels', in_channels)
        self.out_channels = checks.whole_number('CrossKDConnector.out_channels', out_channels)
        self.cls = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.reg = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def check_spec(self, key: str, spec: Any) -> BranchesSpec:
        """Refuse maps that it cannot take; return what it gives.

        Args:
            key: The config key of this connector.
            spec: What the recorder knows of its record.

        Raises:
            ValueError: Naming the student's head and ``in_channels``.
        """
        if not isinstance(spec, BranchesSpec):
            raise ValueError(
                f"{key} takes the records of dict(type='kd_plugins.HeadFeatures') of the student."
            )
        if spec.channels != (self.in_channels,) * 2:
            raise ValueError(
                f'{key}.in_channels={self.in_channels} does not fit the {spec.head} of the '
                f'student, whose branches have {spec.channels[0]} and {spec.channels[1]} channels '
                f'after {spec.after} convolutions: give that number.'
            )
        return replace(spec, channels=(self.out_channels,) * 2)

    def forward_train(self, feature: Branches) -> Branches:
        """Return maps of ``out_channels`` channels, one a level and branch."""
        return Branches(
            tuple(self.cls(x) for x in feature.cls), tuple(self.reg(x) for x in feature.reg)
        )
