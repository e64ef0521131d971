"""ReviewKD: hierarchical context loss between the fused maps and the teacher's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kd_plugins.losses.base import WeightedLoss, at_least_float32
from kd_plugins.registry import MODELS
from kd_plugins.schedules import warmup as warmup_of
from kd_plugins.structures import FeaturesSpec, Progress, as_maps

__all__ = ['ReviewKDLoss', 'hcl_loss']

#: Rows and columns that maps are pooled to.
CONTEXTS = (4, 2, 1)


def hcl_loss(preds_S: Sequence[Tensor], preds_T: Sequence[Tensor]) -> Tensor:
    """Hierarchical context loss (HCL): squared differences at several scales, over all levels.

    A level's part is the weighted mean of the mean squared difference of the maps,
    weight 1, and of the maps averaged to 4 x 4, 2 x 2 and 1 x 1. Of these, the ones
    smaller than the map's height take part, with the weights 1/2, 1/4, ... in that
    order; the width is not looked at. The levels' parts are added up.

    Args:
        preds_S: Maps of the student, (N, C, H, W), C, H and W of every level its own.
        preds_T: Maps of the teacher, of the same shapes.

    Returns:
        Scalar; 0, with a gradient, if N is 0.

    Source: Chen, Liu, Zhao, Jia, "Distilling Knowledge via Knowledge Review", CVPR 2021,
    arXiv 2104.09044, section 3.3; the weights are those of
    github.com/dvlab-research/ReviewKD.
    """
    parts = [_level(x_S - x_T) for x_S, x_T in zip(preds_S, preds_T, strict=True)]
    return sum(parts[1:], parts[0])


def _level(difference: Tensor) -> Tensor:
    # Averaging is linear, so one difference serves all scales.
    sizes = [size for size in CONTEXTS if size < difference.shape[2]]
    scales = [difference, *(F.adaptive_avg_pool2d(difference, size) for size in sizes)]
    weights = [0.5**i for i in range(len(scales))]
    parts = [w * x.square().sum() / max(x.numel(), 1) for w, x in zip(weights, scales, strict=True)]
    return sum(parts[1:], parts[0]) / sum(weights)


@MODELS.register_module()
class ReviewKDLoss(WeightedLoss):
    """:func:`hcl_loss` times ``loss_weight``.

    Its student's side comes through a :class:`kd_plugins.connectors.ReviewKDConnector`.

    Args:
        loss_weight: Factor of the loss. Published: 0.6 to 8 for classifiers, 1 to 2 for
            detectors, depending on the pair.
        warmup: Epochs over which the loss grows linearly, ``min(epoch / warmup, 1)`` with
            epochs counted from 1; 1 means no warm-up (published: 20 on CIFAR-100, 1
            elsewhere). For a loop without epochs: ``dict(length=..., by_epoch=False)``.
            It must fit into the training.

    Raises:
        ValueError: On values out of range, or maps of other shapes. What is known of the
            networks is compared before training, the rest in the first step.

    Source: as :func:`hcl_loss`.
    """

    def __init__(self, loss_weight: float = 1.0, warmup: int | Mapping[str, Any] = 1) -> None:
        super().__init__(loss_weight)
        self.warmup = warmup_of(warmup, 'ReviewKDLoss.warmup')
        self.progress: Progress | None = None

    def set_progress(self, progress: Progress | None) -> None:
        """Take the progress of the training; called before every step."""
        self.progress = progress

    def check_specs(self, key: str, preds_S: Any = None, preds_T: Any = None) -> None:
        """Refuse two networks whose maps will differ.

        Args:
            key: The config key of this loss.
            preds_S: What is known of the student's maps behind the connector, or None.
            preds_T: What is known of the teacher's, or None.

        Raises:
            ValueError: Naming both sides.
        """
        if not (isinstance(preds_S, FeaturesSpec) and isinstance(preds_T, FeaturesSpec)):
            return
        known = preds_S.strides is not None and preds_T.strides is not None
        strides_differ = known and preds_S.strides != preds_T.strides
        if preds_S.channels != preds_T.channels or strides_differ:
            raise ValueError(
                f'{key} compares level with level, but {preds_S.source} of the student, behind '
                f'its connector, gives {preds_S.said}, and {preds_T.source} of the teacher '
                f"{preds_T.said}: give networks with the same levels, and the teacher's "
                'channels as out_channels of the connector.'
            )

    def forward(
        self, preds_S: Tensor | Sequence[Tensor], preds_T: Tensor | Sequence[Tensor]
    ) -> Tensor:
        """Return the loss, a scalar in float32 or better.

        Args:
            preds_S: The student's fused maps, one a level, (N, C, H, W); a vector,
                (N, C), is a map of one position.
            preds_T: The teacher's maps, of the same shapes; detached here.
        """
        factor = self.warmup(self.progress) * self.loss_weight
        maps_S = [at_least_float32(x) for x in as_maps(preds_S)]
        maps_T = [at_least_float32(x.detach()) for x in as_maps(preds_T)]
        shapes_S, shapes_T = ([tuple(x.shape) for x in maps] for maps in (maps_S, maps_T))
        if shapes_S != shapes_T or not shapes_S:
            raise ValueError(
                f'ReviewKDLoss needs maps of the same shapes, but preds_S has {shapes_S} and '
                f'preds_T has {shapes_T}: give out_channels (and out_sizes, if the sizes never '
                'change) of the ReviewKDConnector as the teacher has them, and networks with the '
                'same number of levels.'
            )
        return hcl_loss(maps_S, maps_T) * factor
