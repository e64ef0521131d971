"""Cosine: the direction of every feature is the teacher's; Gram: so are the angles between them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_plugins.losses.base import batch_mean, full_precision
from kd_plugins.losses.maps import LEAST, LevelsLoss
from kd_plugins.registry import MODELS

__all__ = ['CosineLoss', 'GramLoss', 'cosine_loss', 'gram_loss']


def directions(x: Tensor) -> Tensor:
    """Return maps whose feature at every position has length 1.

    A feature of length 0 stays 0, and its gradient is within 1 / LEAST of the others'.

    Args:
        x: Shape (N, C, H, W), or (N, C, L).
    """
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    typical = length.detach().mean()
    # Where no feature has a length, no share of it can be the least.
    least = torch.where(typical > 0, LEAST * typical, torch.ones_like(typical))
    return x / torch.maximum(length, least)


def cosine_loss(preds_S: Tensor, preds_T: Tensor) -> Tensor:
    """``1 - cos(s, t)`` between the features at a position, averaged over positions and pictures.

    Args:
        preds_S: The student's map, shape (N, C, H, W).
        preds_T: The teacher's, of that shape.

    Returns:
        Scalar, from 0 to 2; 0 without pictures.

    Source: Liao, Zhao, Shan, Yan, Liu, Lu, Ji, Chen, "RT-DETRv4", arXiv 2510.25257, the term on
    the encoder's map, whose teacher is a frozen DINOv3.
    """
    return batch_mean(1 - (directions(preds_S) * F.normalize(preds_T, dim=1)).sum(dim=1))


def gram_loss(preds_S: Tensor, preds_T: Tensor) -> Tensor:
    """Mean square of ``G_S - G_T``, the cosines between all pairs of positions of a picture.

    Both networks may have any number of channels. Computed in H W x H W numbers a picture.

    Args:
        preds_S: The student's map, shape (N, C_S, H, W).
        preds_T: The teacher's, shape (N, C_T, H, W).

    Returns:
        Scalar, from 0 to 4; 0 without pictures.

    Source: Siméoni and others, "DINOv3", arXiv 2508.10104, equation 2 ("Gram anchoring"), whose
    sum over the pairs is here a mean. Across the pictures of a batch instead of the positions
    of one it is :class:`SPLoss`.
    """
    x_S, x_T = directions(preds_S.flatten(2)), F.normalize(preds_T.flatten(2), dim=1)
    grams = [x.transpose(1, 2) @ x for x in (x_S, x_T)]
    return batch_mean((grams[0] - grams[1]).square())


@MODELS.register_module()
class CosineLoss(LevelsLoss):
    """:func:`cosine_loss`, added up over the levels, times ``loss_weight``.

    Args:
        loss_weight: Factor of the loss. RT-DETRv4 starts at 5 to 20 by the detector's size, and
            then lets the share of gradients move it.
        levels: Which levels take part, counted from 0; None for all.
        resize: ``'coarser'`` to average the larger of two maps over areas; None to refuse
            maps of other sizes.

    Raises:
        ValueError: On a setting out of range, or maps of other shapes.

    Source: as :func:`cosine_loss`.
    """

    def compare(self, x_S: Tensor, x_T: Tensor) -> Tensor:
        """Return :func:`cosine_loss` of one level."""
        return cosine_loss(x_S, x_T)


@MODELS.register_module()
class GramLoss(LevelsLoss):
    """:func:`gram_loss`, added up over the levels, times ``loss_weight``.

    It needs no connector: the channels of both networks may differ.

    Args:
        loss_weight: Factor of the loss. DINOv3: 2.
        levels, resize: As in :class:`CosineLoss`.

    Raises:
        ValueError: On a setting out of range, maps of other sizes, or where all maps have one
            position.

    Source: as :func:`gram_loss`.
    """

    any_channels = True
    relates_positions = True

    def compare(self, x_S: Tensor, x_T: Tensor) -> Tensor:
        """Return :func:`gram_loss` of one level."""
        with full_precision(x_S):
            return gram_loss(x_S, x_T)
