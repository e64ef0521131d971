"""VID: the student's features predict the teacher's, with a learned variance."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.losses.base import WeightedLoss, at_least_float32, check_features
from kd_plugins.registry import MODELS

__all__ = ['VIDLoss', 'vid_loss']


def vid_loss(mean: Tensor, preds_T: Tensor, variance: Tensor) -> Tensor:
    """Negative log-likelihood of the teacher's features, without its constant.

    Args:
        mean: Prediction of the teacher's features, shape (N, C, H, W).
        preds_T: The teacher's features, shape (N, C, H, W).
        variance: One of every channel, above 0, shape (C,).

    Returns:
        Scalar, the mean over all elements of ``((t - mean)^2 / variance + log
        variance) / 2``, in nats.

    Source: Ahn, Hu, Damianou, Lawrence, Dai, "Variational Information
    Distillation for Knowledge Transfer", CVPR 2019, arXiv 1904.05835,
    equation 5.
    """
    variance = variance.view(1, -1, 1, 1)
    values = (preds_T - mean).square() / variance + variance.log()
    return 0.5 * values.sum() / max(values.numel(), 1)


@MODELS.register_module()
class VIDLoss(WeightedLoss):
    """:func:`vid_loss` of one pair of feature maps, with its own regressor.

    Three 1 x 1 convolutions without bias, with ReLU between them, predict the
    teacher's features; both they and the variances are trained by the student's
    optimizer and kept in checkpoints as ``distiller.*``. Maps of another height
    and width are averaged down to the smaller.

    Args:
        channels_S: Channels of the student's features.
        channels_T: Channels of the teacher's features, and of the layers between.
        init_variance: Variance of every channel at the start, above ``eps``.
        eps: Least variance, above 0.
        loss_weight: Factor of the loss; 1 is usual.

    Raises:
        ValueError: On a setting out of range, or features of other shapes.

    Source: as :func:`vid_loss`, with the regressor of the published code,
    github.com/ssahn0215/variational-information-distillation.
    """

    def __init__(
        self,
        channels_S: int,
        channels_T: int,
        init_variance: float = 5.0,
        eps: float = 1e-5,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        for key, value in (('channels_S', channels_S), ('channels_T', channels_T)):
            checks.whole_number(f'VIDLoss.{key}', value)
        checks.number('VIDLoss.eps', eps, 'a least variance, above 0', above=0)
        checks.number(
            'VIDLoss.init_variance', init_variance, f'a variance above eps={eps!r}', above=eps
        )
        self.eps = eps
        self.lower_bound = 0.5 * math.log(eps)
        widths = (channels_S, channels_T, channels_T, channels_T)
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(before, after, 1, bias=False), nn.ReLU(inplace=True)]
        self.regressor = nn.Sequential(*layers[:-1])
        # softplus of it is the variance without eps.
        raw = math.log(math.expm1(init_variance - eps))
        self.raw_variance = nn.Parameter(torch.full((channels_T,), raw))

    @property
    def variance(self) -> Tensor:
        """The variance of every channel, shape (C_T,), in float32 or better."""
        return F.softplus(at_least_float32(self.raw_variance)) + self.eps

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return the loss, a scalar in float32 or better.

        Args:
            preds_S: The student's features, shape (N, channels_S, H, W).
            preds_T: The teacher's features, shape (N, channels_T, H', W').
        """
        check_features('VIDLoss', preds_S, preds_T, dim=4)
        expected = self.regressor[0].in_channels, len(self.raw_variance)
        if (preds_S.shape[1], preds_T.shape[1]) != expected:
            raise ValueError(
                f'VIDLoss.channels_S={expected[0]}, channels_T={expected[1]} do not fit features '
                f'of shape {tuple(preds_S.shape)} (student) and {tuple(preds_T.shape)} (teacher).'
            )
        size = (
            min(preds_S.shape[2], preds_T.shape[2]),
            min(preds_S.shape[3], preds_T.shape[3]),
        )
        preds_T = _averaged_down(at_least_float32(preds_T.detach()), size)
        # The regressor may run in half precision; the likelihood may not.
        mean = at_least_float32(self.regressor(_averaged_down(preds_S, size)))
        return vid_loss(mean, preds_T, self.variance) * self.loss_weight


def _averaged_down(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if tuple(x.shape[2:]) == size else F.adaptive_avg_pool2d(x, size)
