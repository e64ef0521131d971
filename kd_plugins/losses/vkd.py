"""VkD: the student's features, turned but not stretched, against the teacher's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.losses.base import WeightedLoss, at_least_float32, check_tensors, full_precision
from kd_plugins.registry import MODELS

__all__ = ['VkDLoss', 'vkd_loss']


def vkd_loss(projected: Tensor, preds_T: Tensor) -> Tensor:
    """Smooth L1 (beta 1) to the teacher's features, which a layer norm without gain has whitened.

    Args:
        projected: The student's features in the teacher's space, shape (N, C_T).
        preds_T: The teacher's, shape (N, C_T).

    Returns:
        Scalar, the mean over all elements; 0, with a graph, if there are none.

    Source: Miles, Elezi, Deng, "VkD: Improving Knowledge Distillation using Orthogonal
    Projections", CVPR 2024, arXiv 2403.06213; github.com/roymiles/VkD at 6f8a507, engine.py.
    """
    target = F.layer_norm(preds_T, preds_T.shape[1:])
    total = F.smooth_l1_loss(projected, target, reduction='sum')
    return total / max(projected.numel(), 1)


class OrthogonalProjection(nn.Module):
    """A linear map without bias that keeps lengths, or, to fewer channels, is onto.

    ``P^T P = I`` if there are no fewer channels out than in, else ``P P^T = I``. P is the
    orthogonal factor of a QR decomposition of ``weight``, whose triangle has a diagonal above 0.
    It does not change when ``weight`` is scaled, so that weight decay leaves it as it is.

    Args:
        channels_in, channels_out: Channels before and after.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in))
        nn.init.orthogonal_(self.weight)

    def matrix(self) -> Tensor:
        """Return P, of shape (channels out, channels in), in float32 or better."""
        weight = at_least_float32(self.weight)
        tall = weight if weight.shape[0] >= weight.shape[1] else weight.T
        q, r = torch.linalg.qr(tall)
        # The decomposition itself leaves the signs open.
        q = torch.where(r.diagonal() < 0, -q, q)
        return q if tall is weight else q.T

    def forward(self, x: Tensor) -> Tensor:
        """Return features of shape (N, channels out) in float32 or better."""
        with full_precision(x):
            matrix = self.matrix()
            return F.linear(at_least_float32(x).to(matrix.dtype), matrix)


@MODELS.register_module()
class VkDLoss(WeightedLoss):
    """:func:`vkd_loss` behind an :class:`OrthogonalProjection`, times ``loss_weight``.

    In a config ``kd_plugins.VkDLoss``. Beside it the published training has ``kd_plugins.KDLoss``
    at temperature 1 on the distillation token's logits. Of tokens and of maps the mean is taken.
    The projection is trained by the student's optimizer and kept in checkpoints as
    ``distiller.*``.

    The published projection is another parametrisation, torch's product of Householder
    reflections, in which any weight decay makes it 0 from the second step on: the loss is a
    constant from then on. Here it is orthogonal in every step.

    Args:
        channels_S: Channels of the student's features.
        channels_T: Channels of the teacher's.
        extra_tokens: How many of the student's tokens come before the patches, class and
            distillation tokens, and are left out.
        extra_tokens_T: The same of the teacher's, where it gives tokens.
        loss_weight: Factor of the loss; published: 1.

    Raises:
        ValueError: On a setting out of range, or features of other channels or batches.

    Source: as :func:`vkd_loss`.
    """

    def __init__(
        self,
        channels_S: int,
        channels_T: int,
        extra_tokens: int = 0,
        loss_weight: float = 1.0,
        extra_tokens_T: int | None = None,
    ) -> None:
        super().__init__(loss_weight)
        self.channels_S = checks.whole_number('VkDLoss.channels_S', channels_S)
        self.channels_T = checks.whole_number('VkDLoss.channels_T', channels_T)
        self.extra_tokens = checks.whole_number('VkDLoss.extra_tokens', extra_tokens, least=0)
        if extra_tokens_T is not None:
            checks.whole_number('VkDLoss.extra_tokens_T', extra_tokens_T, least=0)
        self.extra_tokens_T = extra_tokens_T
        self.projection = OrthogonalProjection(channels_S, channels_T)

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return the loss, a scalar in float32 or better.

        Args:
            preds_S: The student's features: tokens, (N, L, channels_S), maps, (N, channels_S,
                H, W), or what they are pooled to, (N, channels_S).
            preds_T: The teacher's, likewise, with its channels; detached here.
        """
        check_tensors('VkDLoss', preds_S=preds_S, preds_T=preds_T)
        if preds_T.dim() == 3 and self.extra_tokens_T is None:
            raise ValueError(
                f'VkDLoss.extra_tokens_T=None, and the teacher gives tokens, {tuple(preds_T.shape)}'
                ': say how many of them are of no patch, such as 1 for a class token, or 0.'
            )
        pooled_S = _pooled(preds_S, self.extra_tokens)
        pooled_T = _pooled(preds_T.detach(), self.extra_tokens_T or 0)
        found = tuple(pooled_S.shape[1:]), tuple(pooled_T.shape[1:])
        wanted = (self.channels_S,), (self.channels_T,)
        if found != wanted or len(pooled_S) != len(pooled_T):
            raise ValueError(
                f'VkDLoss.channels_S={self.channels_S}, channels_T={self.channels_T} do not fit '
                f'features of shape {tuple(preds_S.shape)} (student) and {tuple(preds_T.shape)} '
                '(teacher): give vectors (N, C), maps (N, C, H, W) or tokens (N, L, C) of one '
                'batch, and their channels.'
            )
        return vkd_loss(self.projection(pooled_S), pooled_T) * self.loss_weight


def _pooled(features: Tensor, extra_tokens: int) -> Tensor:
    """Return the mean of maps over positions, or of tokens over patches, (N, C)."""
    features = at_least_float32(features)
    if features.dim() == 4:
        return features.mean(dim=(2, 3))
    return features[:, extra_tokens:].mean(dim=1) if features.dim() == 3 else features
