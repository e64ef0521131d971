"""PKT: the probability that one sample picks another is transferred."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kd_plugins.losses.base import WeightedLoss, at_least_float32, check_features, full_precision
from kd_plugins.registry import MODELS

__all__ = ['PKTLoss', 'pkt_loss']


def pkt_loss(preds_S: Tensor, preds_T: Tensor) -> Tensor:
    """Mean over all pairs of ``p_T * log(p_T / p_S)``, in nats.

    ``p[i, j]`` is the similarity ``(1 + cos(x_i, x_j)) / 2`` over its sum over
    j. As in the published code, and unlike the paper's equation 6, the pairs
    of a sample with itself take part, and the mean is over N^2 pairs, which is
    why the usual weight is 30000.

    Args:
        preds_S: The student's features, shape (N, ...).
        preds_T: The teacher's, shape (N, ...), of any other size.

    Source: Passalis, Tefas, "Learning Deep Representations with Probabilistic
    Knowledge Transfer", ECCV 2018, arXiv 1803.10837, equations 3 to 6;
    github.com/passalis/probabilistic_kt.
    """
    log_p_S, log_p_T = (_log_probabilities(x.flatten(1)) for x in (preds_S, preds_T))
    return (log_p_T.exp() * (log_p_T - log_p_S)).sum() / max(len(preds_S), 1) ** 2


def _log_probabilities(x: Tensor) -> Tensor:
    x = F.normalize(x, dim=1)
    # Opposite features have similarity 0, whose logarithm ends the training.
    similarity = ((1 + x @ x.t()) / 2).clamp_min(1e-7)
    return (similarity / similarity.sum(dim=1, keepdim=True)).log()


@MODELS.register_module()
class PKTLoss(WeightedLoss):
    """:func:`pkt_loss` times ``loss_weight``.

    Args:
        loss_weight: Factor of the loss; 30000 is usual on CIFAR-100.

    Raises:
        ValueError: On a weight out of range, or features of two batches.
    """

    def __init__(self, loss_weight: float = 30000.0) -> None:
        super().__init__(loss_weight)

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return the loss, a scalar in float32 or better; shapes as in :func:`pkt_loss`."""
        check_features(type(self).__name__, preds_S, preds_T)
        preds_S, preds_T = at_least_float32(preds_S), at_least_float32(preds_T.detach())
        with full_precision(preds_S):
            return pkt_loss(preds_S, preds_T) * self.loss_weight
