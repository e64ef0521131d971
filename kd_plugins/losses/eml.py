"""EML, entropy meaning loss: what is left beside a sure label is shared by all candidates."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from kd_plugins.losses.anl import EPS
from kd_plugins.losses.base import WeightedLoss
from kd_plugins.losses.fixmatch import check_views
from kd_plugins.registry import MODELS
from kd_plugins.structures import PseudoLabelled

__all__ = ['EMLLoss', 'eml_loss']


def eml_loss(
    preds_S: Tensor, labels: Tensor, selected: Tensor, candidates: Tensor, k: Tensor, cutoff: float
) -> Tensor:
    """Binary cross-entropy of the other candidates with an equal share of what is left.

    The share is ``(1 - p of the label and of all that are no candidates) / (k - 1)``. It
    has a gradient of its own, as published. The loss is the mean over the k - 1 other
    candidates of the selected pictures, but for those with p above ``cutoff`` squared.

    Args:
        preds_S: Logits of the strong views, (M, C).
        labels: Classes, integers of shape (M,).
        selected: Which of them are learnt, booleans of shape (M,).
        candidates: The k first classes of the weak views, booleans of shape (M, C).
        k: At least 2, of shape ().
        cutoff: The probability from which on a label is sure.

    Returns:
        A scalar, in nats; 0 where no label is selected.

    Source: as :func:`kd_plugins.losses.anl_loss`, section 3.2.
    """
    p = preds_S.softmax(dim=1)
    others = candidates & ~F.one_hot(labels, p.shape[1]).bool()
    share = (1 - (p * ~others).sum(dim=1, keepdim=True) + 1e-7) / (k - 1)
    entropy = -(share * (p + EPS).log() + (1 - share) * (1 - p + EPS).log())
    counted = others & selected[:, None] & ~(p > cutoff**2)
    return (entropy * counted).sum() / (counted.sum() + EPS)


@MODELS.register_module()
class EMLLoss(WeightedLoss):
    """:func:`eml_loss`, times ``loss_weight``.

    Args:
        loss_weight: Factor of the loss; 1 is published.

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
        loss = eml_loss(
            preds_S, pseudo.labels, pseudo.selected, pseudo.candidates, pseudo.k, pseudo.cutoff
        )
        return loss * self.loss_weight
