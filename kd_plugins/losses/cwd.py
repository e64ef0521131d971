"""CWD: every channel's distribution over the positions is the teacher's."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from kd_plugins import checks
from kd_plugins.losses.maps import LevelsLoss
from kd_plugins.registry import MODELS

__all__ = ['CWDLoss', 'cwd_loss']


def cwd_loss(preds_S: Tensor, preds_T: Tensor, tau: float) -> Tensor:
    r"""``tau^2 * KL(softmax(t / tau) || softmax(s / tau))`` over the positions of a channel.

    Averaged over pictures and channels.

    Args:
        preds_S: The student's map, shape (N, C, H, W), or its logits of dense classes.
        preds_T: The teacher's, of that shape.
        tau: The temperature, above 0.

    Returns:
        Scalar, at least 0 up to rounding, in nats times tau^2; 0 without pictures.

    Source: Shu, Liu, Gao, Yan, Shen, "Channel-wise Knowledge Distillation for Dense
    Prediction", ICCV 2021, arXiv 2011.13256, equations 4 and 5. The published code
    (github.com/irfanICMLL/TorchDistiller) takes the logarithm of a softmax, which is infinite
    for maps of large values; the logarithms here are never taken of a rounded probability.
    """
    log_p_S, log_p_T = (F.log_softmax(x.flatten(2) / tau, dim=2) for x in (preds_S, preds_T))
    kl = (log_p_T.exp() * (log_p_T - log_p_S)).sum(dim=2)
    return tau**2 * kl.sum() / max(kl.numel(), 1)


def batch_normed(x: Tensor) -> Tensor:
    """Return maps less their mean, over their deviation, channel by channel.

    A batch norm without gain and shift that always takes the batch's own statistics: the
    biased variance over pictures and positions plus 1e-5.

    Args:
        x: Shape (N, C, H, W).
    """
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = x.var((0, 2, 3), unbiased=False, keepdim=True)
    return (x - mean) * (variance + 1e-5).rsqrt()


@MODELS.register_module()
class CWDLoss(LevelsLoss):
    """:func:`cwd_loss`, added up over the levels, times ``loss_weight``.

    mmrazor's ``ChannelWiseDivergence`` is the same of one level in the default memory format; it
    raises on channels-last maps, and computes in half precision what autocast gives it in half.

    Args:
        tau: The temperature, above 0. Published: 4 for the logits of segmentation, 1 for the
            maps of detectors.
        loss_weight: Factor of the loss. Published: 3 and 10.
        levels: Which levels take part, counted from 0; None for all.
        resize: ``'coarser'`` to average the larger of two maps over areas; None to refuse
            maps of other sizes.
        normed: Whether :func:`batch_normed` brings both maps to one scale first, as in mmyolo's
            distillation of RTMDet, whose tau and weight are 1.

    Raises:
        ValueError: On a setting out of range, maps of other shapes, or where all maps have one
            position.

    Source: as :func:`cwd_loss`.
    """

    relates_positions = True

    def __init__(
        self,
        tau: float = 1.0,
        loss_weight: float = 10.0,
        levels: Sequence[int] | None = None,
        resize: str | None = None,
        normed: bool = False,
    ) -> None:
        super().__init__(loss_weight, levels, resize)
        self.normed = checks.flag('CWDLoss.normed', normed)
        self.tau = checks.number('CWDLoss.tau', tau, 'a temperature, above 0', above=0)

    def compare(self, x_S: Tensor, x_T: Tensor) -> Tensor:
        """Return :func:`cwd_loss` of one level."""
        if self.normed:
            x_S, x_T = batch_normed(x_S), batch_normed(x_T)
        return cwd_loss(x_S, x_T, self.tau)
