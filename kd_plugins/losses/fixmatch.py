"""FixMatch: the strong view of a picture learns the sure label of its weak view."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kd_plugins.losses.base import WeightedLoss, at_least_float32, batch_mean, check_tensors
from kd_plugins.registry import MODELS
from kd_plugins.structures import PseudoLabelled

__all__ = ['FixMatchLoss', 'fixmatch_loss']


def check_views(owner: str, preds_S: Tensor, pseudo: PseudoLabelled) -> Tensor:
    """Return the logits of strong views in float32 or better, if they are of those pictures.

    Args:
        owner: The name of the term.
        preds_S: The logits.
        pseudo: The labels.

    Raises:
        ValueError: If they are no logits of as many pictures, or the labels are none.
    """
    check_tensors(owner, preds_S=preds_S)
    shape = getattr(getattr(pseudo, 'candidates', None), 'shape', None)
    if preds_S.dim() != 2 or shape != preds_S.shape:
        raise ValueError(
            f'{owner} needs the logits (M, C) of the strong views and the labels of as many '
            f'pictures and classes, but preds_S has {tuple(preds_S.shape)} and pseudo '
            f'{"is a " + type(pseudo).__name__ if shape is None else f"is of {tuple(shape)}"}: '
            "record them with type='kd_plugins.ViewLogits', view='strong', and, through the "
            "connector kd_plugins.PseudoLabels, type='kd_plugins.ViewLogits'."
        )
    return at_least_float32(preds_S)


def fixmatch_loss(preds_S: Tensor, labels: Tensor, selected: Tensor) -> Tensor:
    """Cross-entropy of the labels that are selected, 0 for the others, per picture.

    Args:
        preds_S: Logits of the strong views, (M, C).
        labels: Classes, integers of shape (M,).
        selected: Which of them are learnt, booleans of shape (M,).

    Returns:
        Shape (M,), in nats.

    Source: Sohn et al., "FixMatch", NeurIPS 2020, arXiv 2001.07685, equation 4.
    """
    return F.cross_entropy(preds_S, labels, reduction='none') * selected


@MODELS.register_module()
class FixMatchLoss(WeightedLoss):
    """:func:`fixmatch_loss`, averaged over all pictures, times ``loss_weight``.

    With :class:`kd_plugins.connectors.FlexiblePseudoLabels` it is FlexMatch's; with
    :class:`ANLLoss` and :class:`EMLLoss` beside it, FullMatch's, or FullFlex's.

    Args:
        loss_weight: Factor of the loss.

    Raises:
        ValueError: On a weight out of range, or records of other shapes.
    """

    def forward(self, preds_S: Tensor, pseudo: PseudoLabelled) -> Tensor:
        """Return the loss, a scalar in float32 or better.

        Args:
            preds_S: The logits of the strong views, (M, C).
            pseudo: What the weak views say about them.
        """
        preds_S = check_views(type(self).__name__, preds_S, pseudo)
        return batch_mean(fixmatch_loss(preds_S, pseudo.labels, pseudo.selected)) * self.loss_weight

    def diagnose(self, preds_S: Tensor, pseudo: PseudoLabelled) -> dict[str, Tensor]:
        """Return k, the share in % of labels that are learnt, and of those that are agreed with.

        ``agreement`` is of all pictures, on which both views have the same first class.
        For :class:`kd_plugins.hooks.DistillationLogHook`.
        """
        preds_S = check_views(type(self).__name__, preds_S, pseudo)
        agreed = (preds_S.argmax(dim=1) == pseudo.labels).float()
        return dict(
            k=pseudo.k.float(),
            mask_rate=100 * batch_mean(pseudo.selected.float()),
            agreement=100 * batch_mean(agreed),
        )
