"""RecursiveMix's consistency: a pasted region is answered as the whole picture was before."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.losses.base import WeightedLoss, at_least_float32, batch_mean, full_precision
from kd_plugins.registry import MODELS
from kd_plugins.structures import PastedRegion

__all__ = ['RecursiveMixLoss', 'consistency_loss', 'pool_region']


def pool_region(feature_map: Tensor, box: Sequence[float], size: tuple[int, int]) -> Tensor:
    """Mean of a region of feature maps, the same region of each: RoIAlign to one cell.

    It is a weighted mean over the map whose weights are a product of rows and
    columns, so that it is one matrix product, which repeats bit for bit.

    Args:
        feature_map: Shape (N, C, h, w).
        box: (x1, y1, x2, y2) in pixels of the picture.
        size: Height and width of the picture in pixels.

    Returns:
        Shape (N, C).

    Source: He et al., "Mask R-CNN", arXiv 1703.06870, RoIAlign with half-pixel
    centres and as many samples as the region has whole cells, rounded up.
    """
    x1, y1, x2, y2 = box
    rows, columns = feature_map.shape[2:]
    row_weights = _weights(y1 * rows / size[0], y2 * rows / size[0], rows, feature_map)
    column_weights = _weights(x1 * columns / size[1], x2 * columns / size[1], columns, feature_map)
    return feature_map.flatten(2) @ torch.outer(row_weights, column_weights).flatten()


def _weights(start: float, end: float, cells: int, like: Tensor) -> Tensor:
    """Return the weight of each cell of a row in the mean from start to end, in cells."""
    samples = max(math.ceil(end - start), 1)
    index = torch.arange(samples, device=like.device, dtype=like.dtype)
    places = (start - 0.5 + (index + 0.5) * ((end - start) / samples)).clamp(0, cells - 1)
    centres = torch.arange(cells, device=like.device, dtype=like.dtype)
    return (1 - (places[:, None] - centres).abs()).clamp(min=0).mean(dim=0)


def consistency_loss(preds_S: Tensor, preds_before: Tensor) -> Tensor:
    """Cross-entropy with what the network said before as the target, per sample.

    Args:
        preds_S: Logits of the region, shape (N, C).
        preds_before: Logits of the whole picture before, shape (N, C).

    Returns:
        Shape (N,).

    Source: Yang et al., "RecursiveMix: Mixed Learning with History", NeurIPS 2022,
    arXiv 2203.06844, section 3.2.
    """
    return -(preds_before.softmax(dim=1) * preds_S.log_softmax(dim=1)).sum(dim=1)


@MODELS.register_module()
class RecursiveMixLoss(WeightedLoss):
    """:func:`consistency_loss` of the pasted region, times the share of the picture it covers.

    The region is pooled from the last feature map and goes through a linear
    classifier: its own, where ``channels`` and ``num_classes`` are given, trained by
    the student's optimizer and kept in checkpoints as ``distiller.*``; or the
    student's, which ``loss_forward_mappings`` then give as ``weight_S`` and
    ``bias_S`` (mmrazor's ``Parameter`` recorders). It belongs to
    :class:`kd_plugins.batch_parts.RecursiveMix`. In a plain step it is 0, with a
    gradient of 0, so that every rank has the same graph.

    Args:
        loss_weight: omega: 0.5 on ImageNet, 0.1 on CIFAR.
        channels: Of the last feature map, for a classifier of its own.
        num_classes: Classes, likewise.

    Raises:
        ValueError: On a weight out of range, one of both numbers alone, both kinds
            of classifiers or none, or feature maps of other shapes.

    Source: as :func:`consistency_loss`; github.com/implus/RecursiveMix-pytorch
    (ed381bf), main.py and models_cifar/pyramidnet.py.
    """

    def __init__(
        self,
        loss_weight: float = 0.5,
        channels: int | None = None,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(loss_weight)
        self.classifier: nn.Linear | None = None
        if channels is not None or num_classes is not None:
            for key, value in (('channels', channels), ('num_classes', num_classes)):
                right = 'a whole number, at least 1, or leave both out'
                checks.whole_number(f'RecursiveMixLoss.{key}', value, right=right)
            self.classifier = nn.Linear(channels, num_classes)  # type: ignore[arg-type]

    # The region is another one in every step, which is nothing to compile.
    @torch.compiler.disable
    def forward(
        self,
        feature_map: Tensor | Sequence[Tensor],
        pasted: PastedRegion,
        weight_S: Tensor | None = None,
        bias_S: Tensor | None = None,
    ) -> Tensor:
        """Return the loss, a scalar in float32 or better.

        Args:
            feature_map: The student's last feature map, shape (N, C, h, w), or
                several, of which the last one counts.
            pasted: What :class:`kd_plugins.batch_parts.RecursiveMix` says of the
                batch.
            weight_S: The student's classifier, shape (classes, C).
            bias_S: Its bias, shape (classes,).
        """
        if not isinstance(feature_map, Tensor):
            feature_map = feature_map[-1]
        weight, bias = self._classifier(weight_S, bias_S)
        if feature_map.dim() != 4 or feature_map.shape[1] != weight.shape[1]:
            raise ValueError(
                f'RecursiveMixLoss has feature maps of shape {tuple(feature_map.shape)} for a '
                f'classifier of {weight.shape[1]} features: record the map, (N, channels, h, w), '
                "that the global pooling gets, type='ModuleOutputs', source='backbone'."
            )
        with full_precision(feature_map):
            feature_map, weight = at_least_float32(feature_map), at_least_float32(weight)
            bias = None if bias is None else at_least_float32(bias)
            box = (0, 0, pasted.size[1], pasted.size[0]) if pasted.preds is None else pasted.box
            logits = F.linear(pool_region(feature_map, box, pasted.size), weight, bias)
            if pasted.preds is None:
                return logits.sum() * 0.0
            losses = consistency_loss(logits, at_least_float32(pasted.preds))
            return batch_mean(losses) * pasted.share * self.loss_weight

    def _classifier(
        self, weight_S: Tensor | None, bias_S: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        own = self.classifier
        if (own is None) == (weight_S is None):
            raise ValueError(
                'RecursiveMixLoss has '
                + ('no classifier' if own is None else 'a classifier of its own beside weight_S')
                + ': give channels and num_classes for its own, or map weight_S (and bias_S) to '
                "type='Parameter', source='head.fc.weight' for the student's."
            )
        if own is not None:
            return own.weight, own.bias
        assert weight_S is not None
        return weight_S, bias_S
