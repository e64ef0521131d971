"""ANL, adaptive negative learning: classes that no picture of the step is likely to have."""

from __future__ import annotations

from torch import Tensor

from kd_plugins.losses.base import WeightedLoss, batch_mean
from kd_plugins.losses.fixmatch import check_views
from kd_plugins.registry import MODELS
from kd_plugins.structures import PseudoLabelled

__all__ = ['ANLLoss', 'anl_loss']

#: Of the published code, inside of logarithms.
EPS = 1e-10


def anl_loss(preds_S: Tensor, candidates: Tensor, cutoff: float) -> Tensor:
    """Sum of ``-log(1 - p)`` over the classes that are no candidates, per picture.

    Classes with p above ``cutoff`` squared are left out: the network is too sure of them.

    Args:
        preds_S: Logits of the strong views, (M, C).
        candidates: The k first classes of the weak views, booleans of shape (M, C).
        cutoff: The probability from which on a label is sure.

    Returns:
        Shape (M,), in nats.

    Source: Chen et al., "Boosting Semi-Supervised Learning by Exploiting All Unlabeled
    Data", CVPR 2023, arXiv 2303.11066, section 3.3; the constants are those of
    github.com/megvii-research/FullMatch (c54c0b9).
    """
    p = preds_S.softmax(dim=1)
    negative = ~candidates & ~(p > cutoff**2)
    return -((1 - p + EPS).log() * negative).sum(dim=1)


@MODELS.register_module()
class ANLLoss(WeightedLoss):
    """:func:`anl_loss`, averaged over all pictures, times ``loss_weight``.

    It learns of every unlabelled picture, however unsure its label is.

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
        return batch_mean(anl_loss(preds_S, pseudo.candidates, pseudo.cutoff)) * self.loss_weight
