"""SL2: squared differences of maps, weighted by how sure the teacher is of an object there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_plugins.losses.base import at_least_float32
from kd_plugins.losses.maps import ProjectedMapsLoss, added
from kd_plugins.registry import MODELS
from kd_plugins.structures import FeaturesSpec, HeadOutputs, HeadSpec, as_maps

__all__ = ['SL2Loss', 'sl2_loss']

#: Added to the weights' sum in the published code.
EPS = 1e-9


def sl2_loss(projected: Tensor, preds_T: Tensor, score: Tensor) -> Tensor:
    """``sum of w * (s - t)^2 / (C * sum of w)`` over pictures and positions.

    Args:
        projected: The student's map in the teacher's channels, (N, C, H, W).
        preds_T: The teacher's, of that shape.
        score: w, (N, 1, H, W), from 0 to 1.

    Returns:
        Scalar: the mean squared difference where w is.

    Source: ultralytics' distillation of detectors (June 2026), which has no paper; facts of it,
    and the figures, are in the folder of its configs.
    """
    weighted = (score * (projected - preds_T).square()).sum()
    return weighted / (projected.shape[1] * score.sum() + EPS)


@MODELS.register_module()
class SL2Loss(ProjectedMapsLoss):
    """:func:`sl2_loss`, added up over the levels, times ``loss_weight``.

    A level of the student's maps goes through a 1 x 1 convolution to the teacher's channels,
    ReLU, and another 1 x 1 convolution, also where the channels are the same. They have biases,
    learn by this loss alone, are trained by the student's optimizer and kept in checkpoints as
    ``distiller.*``. Neither map is normalised. The weight of a position is the largest
    probability that the teacher's head gives any class of any anchor there.

    Args:
        channels_S: Channels of the student's maps, the first level first.
        channels_T: Those of the teacher's.
        loss_weight: Factor of the loss. Published: 6, times the batch size, since every loss
            there is a sum over pictures; mmdet's are means, so it is 6.
        levels: Which levels of the maps take part, counted from 0; None for all.
        resize: ``'coarser'`` to average the larger of two maps over areas; None to refuse
            maps of other sizes. The scores of merged
            positions are their largest.

    Raises:
        ValueError: On a setting out of range, or maps that do not fit each other or the head.

    Source: as :func:`sl2_loss`.
    """

    def __init__(
        self,
        channels_S: Sequence[int],
        channels_T: Sequence[int],
        loss_weight: float = 6.0,
        levels: Sequence[int] | None = None,
        resize: str | None = None,
    ) -> None:
        super().__init__(channels_S, channels_T, loss_weight, levels, resize)

    def projector(self, channels_S: int, channels_T: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(channels_S, channels_T, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_T, channels_T, 1),
        )

    def check_specs(  # type: ignore[override]
        self, key: str, preds_S: Any = None, preds_T: Any = None, head_T: Any = None
    ) -> None:
        """Refuse maps that differ, and a head that does not sit on the teacher's maps."""
        super().check_specs(key, preds_S, preds_T)
        if not isinstance(head_T, HeadSpec):
            raise ValueError(
                f"{key} weighs positions by what the teacher's head says: map head_T to a recorder "
                "dict(type='kd_plugins.DetectionHead') of the teacher."
            )
        if isinstance(preds_T, FeaturesSpec) and len(head_T.strides) != len(preds_T.channels):
            raise ValueError(
                f'{key}: the {head_T.head} of the teacher has {len(head_T.strides)} levels, and '
                f'{preds_T.source} of the teacher gives {preds_T.said}: record the maps that the '
                'head sees.'
            )

    def forward(
        self,
        preds_S: Tensor | Sequence[Tensor],
        preds_T: Tensor | Sequence[Tensor],
        head_T: HeadOutputs,
    ) -> Tensor:
        """Return the loss, a scalar in float32 or better.

        Args:
            preds_S: The student's maps, (N, C, H, W), one a level.
            preds_T: The teacher's, of the same heights and widths; detached here.
            head_T: What the teacher's head said of them; detached here.
        """
        scores = _scores(as_maps(preds_T), head_T)
        if self.levels is not None:
            scores = [scores[level] for level in self.levels]
        parts = []
        for score, (projector, x_S, x_T) in zip(
            scores, self._projected(preds_S, preds_T), strict=True
        ):
            if score.shape[2:] != x_T.shape[2:]:
                score = F.adaptive_max_pool2d(score, x_T.shape[2:])
            # The layers may run in half precision; the difference may not.
            parts.append(sl2_loss(at_least_float32(projector(x_S)), x_T, score))
        return added(parts) * self.loss_weight


@torch.no_grad()
def _scores(maps: Sequence[Tensor], head: HeadOutputs) -> list[Tensor]:
    """Return the largest probability at each position of each map, (N, 1, H, W)."""
    positions = [x.shape[2] * x.shape[3] for x in maps]
    sizes = head.level_sizes
    if len(sizes) != len(maps) or any(
        size % max(number, 1) or size < number
        for size, number in zip(sizes, positions, strict=True)
    ):
        raise ValueError(
            f'SL2Loss.preds_T has maps of {positions} positions, which are not those of the '
            f"teacher's {head.head}, whose levels have {list(sizes)} anchors: record the maps that "
            'the head sees.'
        )
    best = at_least_float32(head.cls_logits).amax(dim=2).sigmoid().split(sizes, dim=1)
    return [
        score.reshape(len(x), 1, *x.shape[2:], size // number).amax(dim=4)
        for score, x, size, number in zip(best, maps, sizes, positions, strict=True)
    ]
