"""CSKD: every patch of the student answers as the teacher does at its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kd_plugins.losses.base import agreement, at_least_float32, batch_mean, check_tensors
from kd_plugins.losses.deit import AnswerLoss
from kd_plugins.registry import MODELS
from kd_plugins.schedules import decay as decay_of

__all__ = ['CSKDLoss', 'fused_target']


def fused_target(dense: Tensor, global_: Tensor, share: float) -> Tensor:
    """``share * dense + (1 - share) * global``, the cumulative knowledge fusion.

    Args:
        dense: The teacher's logits at every position, shape (N, C, H, W).
        global_: Its logits for the whole picture, shape (N, C).
        share: Share of the dense ones, in [0, 1].

    Returns:
        Tensor of shape (N, C, H, W).

    Source: Zhao, Song, Liang, "Cumulative Spatial Knowledge Distillation for
    Vision Transformers", ICCV 2023, arXiv 2307.08500 (CKF).
    """
    return share * dense + (1 - share) * global_[:, :, None, None]


def on_one_grid(preds_S: Tensor, preds_T: Tensor) -> tuple[Tensor, Tensor]:
    """Bring two sets of dense logits to the coarser of their grids.

    The finer one is averaged over whole cells where its sides are multiples of
    the other's (14 x 14 and 7 x 7), and interpolated otherwise (bilinear, with
    a low-pass filter).

    Args:
        preds_S: Dense logits of the student, shape (N, C, H, W).
        preds_T: Dense logits of the teacher, shape (N, C, H', W').

    Returns:
        Both, of one shape.

    Raises:
        ValueError: If neither grid is the finer one, because each has more rows
            or columns than the other.
    """
    grid_S, grid_T = tuple(preds_S.shape[2:]), tuple(preds_T.shape[2:])
    coarser = min(grid_S[0], grid_T[0]), min(grid_S[1], grid_T[1])
    if coarser not in (grid_S, grid_T):
        raise ValueError(
            'CSKDLoss cannot match the grids: the student has {} x {} positions, the teacher '
            '{} x {}, so that neither is the finer one. Give both networks the same picture, '
            'and a patch size and strides of one aspect ratio.'.format(*grid_S, *grid_T)
        )
    return _averaged_to(preds_S, coarser), _averaged_to(preds_T, coarser)


def _averaged_to(dense: Tensor, grid: tuple[int, int]) -> Tensor:
    rows, columns = dense.shape[2:]
    if (rows, columns) == grid:
        return dense
    if rows % grid[0] == 0 and columns % grid[1] == 0:
        return F.avg_pool2d(dense, (rows // grid[0], columns // grid[1]))
    return F.interpolate(dense, grid, mode='bilinear', antialias=True)


@MODELS.register_module()
class CSKDLoss(AnswerLoss):
    """The answers of all positions against a target that turns global.

    At the start of the training the target of a position is the teacher's
    answer at that position, at the end its answer to the whole picture, which
    is the mean of its dense logits; between them :func:`fused_target`, with a
    share that :func:`kd_plugins.schedules.decay` gives.

    The published soft form is a sum over positions, divided by N: H * W times
    the mean, which ``normalizer='mean'`` gives. (DeiT's soft form beside it is
    divided by all logits; see :class:`DeiTLoss`.)

    Args:
        form, tau, loss_weight, normalizer: As in :class:`AnswerLoss`. The
            published training has ``'hard'`` and a weight of 1.
        decay: ``'linear'`` (published), ``'quadratic'`` or ``'cosine'``, per
            epoch counted from 0; ``dict(form='linear', by_epoch=False)`` moves
            in every iteration.

    Raises:
        ValueError: On values out of range, logits of other classes or batches,
            grids of which neither is the finer one, or epochs in a loop that
            has none.

    Source: as :func:`fused_target`; github.com/Zzzzz1/CSKD, cskd/cskd.py.
    """

    def __init__(
        self,
        form: str = 'hard',
        tau: float | Mapping[str, Any] | nn.Module = 1.0,
        loss_weight: float = 1.0,
        normalizer: str = 'published',
        decay: str | Mapping[str, Any] = 'linear',
    ) -> None:
        super().__init__(form, tau, loss_weight, normalizer)
        self.decay = decay_of(decay, 'CSKDLoss.decay')

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return the loss, a scalar in float32 or better.

        Args:
            preds_S: Dense logits of the student, shape (N, C, H, W).
            preds_T: Dense logits of the teacher, shape (N, C, H', W'); detached
                here.
        """
        share = self.decay(self.progress)
        _check_dense(preds_S, preds_T)
        preds_S, preds_T = at_least_float32(preds_S), at_least_float32(preds_T)
        global_T = preds_T.mean(dim=(2, 3))
        preds_S, preds_T = on_one_grid(preds_S, preds_T)
        target = fused_target(preds_T, global_T, share)
        loss = batch_mean(self._answers(_rows(preds_S), _rows(target))) * self.loss_weight
        if self.form == 'soft' and self.normalizer == 'published':
            return loss * preds_S.shape[2:].numel()
        return loss

    def diagnose(self, preds_S: Tensor, preds_T: Tensor) -> dict[str, Tensor]:
        """Return the agreement position by position, for the hook that logs it."""
        dense = on_one_grid(at_least_float32(preds_S), at_least_float32(preds_T))
        return dict(dense_agreement=agreement(*dense))


def _rows(dense: Tensor) -> Tensor:
    """Return dense logits, (N, C, H, W), as (N * H * W, C)."""
    return dense.movedim(1, -1).flatten(0, -2)


def _check_dense(preds_S: Tensor, preds_T: Tensor) -> None:
    check_tensors('CSKDLoss', preds_S=preds_S, preds_T=preds_T)
    if preds_S.dim() != 4 or preds_T.dim() != 4 or preds_S.shape[:2] != preds_T.shape[:2]:
        raise ValueError(
            'CSKDLoss needs dense logits of shape (N, C, H, W) from both networks, of one batch '
            f'and the same classes, but preds_S has {tuple(preds_S.shape)} and preds_T has '
            f"{tuple(preds_T.shape)}: record both with type='kd_plugins.DenseLogits'."
        )
