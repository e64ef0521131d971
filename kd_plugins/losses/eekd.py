"""EEKD and CheckpointKD: checkpoints of one training teach together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.losses.base import (
    LogitsLoss,
    agreement,
    at_least_float32,
    batch_mean,
    full_precision,
)
from kd_plugins.registry import MODELS
from kd_plugins.temperatures.base import per_sample

__all__ = ['EEKDLoss', 'eekd_loss']

MODES = ('attention', 'equal', 'linear')
MIXES = ('probabilities', 'logits')


def eekd_loss(
    preds_S: Tensor,
    preds_T: Tensor,
    log_weights: Tensor,
    tau: float | Tensor,
    mix: str = 'probabilities',
) -> Tensor:
    r"""KL of the student from the teachers' mixture, per sample.

    ``KL(p_T || softmax(z_S / tau))`` with ``p_T = sum_i w_i softmax(z_i / tau)`` of
    EEKD, or ``softmax(sum_i w_i z_i / tau)`` of CheckpointKD. It is computed in log
    space, and gradients reach the weights through the target: its entropy counts.

    Args:
        preds_S: The student's logits, shape (N, C).
        preds_T: The logits of M teachers, shape (N, M, C).
        log_weights: Logarithms of the teachers' weights, shape (N, M) or (M,); the
            weights of a sample add up to 1.
        tau: The temperature, above 0: a number, or a tensor of shape () or (N, 1).
        mix: ``'probabilities'`` or ``'logits'``: what is mixed.

    Returns:
        Tensor of shape (N,), at least 0 up to rounding, in nats; not times tau^2.

    Source: "Learn From the Past: Experience Ensemble Knowledge Distillation",
    arXiv 2202.12488 (probabilities); "Efficient Knowledge Distillation from Model
    Checkpoints", arXiv 2210.06458, and github.com/LeapLabTHU/CheckpointKD (logits).
    """
    tau_T = tau.unsqueeze(1) if isinstance(tau, Tensor) and tau.dim() == 2 else tau
    log_w = log_weights.unsqueeze(-1)
    if mix == 'logits':
        log_p_T = F.log_softmax((log_w.exp() * preds_T / tau_T).sum(dim=1), dim=1)
    else:
        log_p_T = torch.logsumexp(log_w + F.log_softmax(preds_T / tau_T, dim=2), dim=1)
    log_p_S = F.log_softmax(preds_S / tau, dim=1)
    return (log_p_T.exp() * (log_p_T - log_p_S)).sum(dim=1)


@MODELS.register_module()
class EEKDLoss(LogitsLoss):
    """:func:`eekd_loss`, averaged over the batch, times ``loss_weight``.

    With ``mode='attention'`` the weights of a sample are ``softmax_i((E_S v)^T (E_T
    u_i))``, v and u_i being the pooled features of the student and of teacher i,
    E_S and E_T linear maps without bias, one for all teachers. The maps learn by
    this loss alone, are trained by the student's optimizer and kept in checkpoints
    as ``distiller.*``. Nothing keeps the weights from collapsing on one teacher:
    :class:`kd_plugins.hooks.DistillationLogHook` logs their means and entropy.

    Args:
        tau: The temperature: a number above 0 or a temperature module.
        mode: ``'attention'``, ``'equal'`` (1/M), or ``'linear'`` (in proportion to
            the place in ``model.teacher_ckpt``: i of 1 + ... + M, the last most).
        mix: ``'probabilities'``, EEKD's, or ``'logits'``, CheckpointKD's.
        square_tau: Whether to multiply by tau^2, as KD does.
        channels_S: Channels of the student's features, for ``'attention'`` only.
        channels_T: Channels of the teachers'.
        embed_dims: Channels that both are mapped to.
        detach_features: Whether to keep the weights' gradient from the student's
            features; it then reaches the maps only.
        loss_weight: Factor of the loss.

    Raises:
        ValueError: On a setting out of range, or records of other shapes.

    Source: as :func:`eekd_loss`. The paper leaves open what ``square_tau``,
    ``embed_dims`` and ``detach_features`` set.
    """

    def __init__(
        self,
        tau: float | Mapping[str, Any] | nn.Module = 5.0,
        mode: str = 'attention',
        mix: str = 'probabilities',
        square_tau: bool = True,
        channels_S: int | None = None,
        channels_T: int | None = None,
        embed_dims: int = 128,
        detach_features: bool = False,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(tau, loss_weight)
        name = type(self).__name__
        self.mode = checks.one_of(f'{name}.mode', mode, MODES)
        self.mix = checks.one_of(f'{name}.mix', mix, MIXES)
        self.square_tau = checks.flag(f'{name}.square_tau', square_tau)
        self.detach_features = checks.flag(f'{name}.detach_features', detach_features)
        sizes = dict(channels_S=channels_S, channels_T=channels_T)
        if mode == 'attention':
            for key, value in dict(sizes, embed_dims=embed_dims).items():
                checks.whole_number(f'{name}.{key}', value)
            assert channels_S is not None and channels_T is not None
            self.embed_S = nn.Linear(channels_S, embed_dims, bias=False)
            self.embed_T = nn.Linear(channels_T, embed_dims, bias=False)
        for key, value in sizes.items():
            if mode != 'attention' and value is not None:
                raise ValueError(
                    f'{name}.{key}={value!r} has no effect with mode={mode!r}: leave it out, or '
                    "set mode='attention'."
                )

    def check_specs(self, key: str, **specs: Any) -> None:
        """Refuse a mapping without the features that the weights are made of."""
        missing = [name for name in ('features_S', 'features_T') if name not in specs]
        if self.mode == 'attention' and missing:
            raise ValueError(
                f'{key}.mode={self.mode!r} needs the features of both networks, and '
                f'loss_forward_mappings has no {missing[0]}: add it, or set mode to one of '
                f'{MODES[1:]}.'
            )

    def forward(
        self,
        preds_S: Tensor,
        preds_T: Tensor,
        features_S: Tensor | None = None,
        features_T: Tensor | None = None,
        gt_labels: Tensor | None = None,
    ) -> Tensor:
        """Return the loss, a scalar in float32 or better.

        Args:
            preds_S: The student's logits, shape (N, C).
            preds_T: The teachers' logits, shape (N, M, C), or (N, C) of one; detached
                here.
            features_S: The student's features, shape (N, D) or, to be averaged over
                the places, (N, D, H, W).
            features_T: The teachers', shape (N, M, D') or (N, M, D', H', W'), or of
                one without M; detached here.
            gt_labels: Not used; accepted so that KD and EEKD can be exchanged in a
                config.
        """
        preds_S, preds_T = self._logits(preds_S, preds_T)
        log_weights = self.log_weights(preds_T.shape[1], preds_T, features_S, features_T)
        tau = self.tau(preds_S, _averaged(preds_T, log_weights.detach()))
        preds_S, preds_T = self.tau.transform(preds_S, preds_T)
        loss = eekd_loss(preds_S, preds_T, log_weights, tau, self.mix)
        if self.square_tau:
            loss = loss * per_sample(tau) ** 2
        return batch_mean(loss) * self.loss_weight

    def log_weights(
        self,
        number: int,
        like: Tensor,
        features_S: Tensor | None = None,
        features_T: Tensor | None = None,
    ) -> Tensor:
        """Return the logarithms of the weights of M teachers, (N, M) or (M,).

        Args:
            number: M.
            like: Says the device and the precision.
            features_S, features_T: As in :meth:`forward`.
        """
        if self.mode != 'attention':
            steps = torch.arange(1, number + 1, device=like.device, dtype=like.dtype)
            steps = steps if self.mode == 'linear' else torch.ones_like(steps)
            return (steps / steps.sum()).log()
        if features_S is None or features_T is None:
            raise ValueError(
                f"{type(self).__name__}.mode='attention' needs features_S and features_T: map them "
                'in loss_forward_mappings.'
            )
        v, u = _pooled(features_S), _pooled(features_T.detach())
        u = u.unsqueeze(1) if u.dim() == 2 else u
        expected = (len(like), self.embed_S.in_features), (
            len(like), number, self.embed_T.in_features,
        )  # fmt: skip
        if (tuple(v.shape), tuple(u.shape)) != expected:
            raise ValueError(
                f'{type(self).__name__}.channels_S={expected[0][1]}, channels_T={expected[1][2]} '
                f'do not fit features of shape {tuple(features_S.shape)} (student) and '
                f'{tuple(features_T.shape)} ({number} teachers of a batch of {len(like)}): record '
                'pooled features of both, those of the teachers by kd_plugins.EveryCheckpoint.'
            )
        with full_precision(v):
            v = F.linear(v.detach() if self.detach_features else v, self._of(self.embed_S))
            u = F.linear(u, self._of(self.embed_T))
            return F.log_softmax((u * v.unsqueeze(1)).sum(dim=2), dim=1)

    def diagnose(
        self,
        preds_S: Tensor,
        preds_T: Tensor,
        features_S: Tensor | None = None,
        features_T: Tensor | None = None,
        gt_labels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the weights' means and entropy in nats, for the log, and the agreement.

        An entropy of 0 is a collapse on one teacher, log(M) are equal weights. The
        agreement is with the class that the mixture, at a temperature of 1, has first.
        """
        preds_S, preds_T = self._logits(preds_S, preds_T)
        log_w = self.log_weights(preds_T.shape[1], preds_T, features_S, features_T)
        log_w = log_w.expand(len(preds_T), -1)
        entropy = batch_mean(-(log_w.exp() * log_w).sum(dim=1))
        means = log_w.exp().sum(dim=0) / max(len(log_w), 1)
        mixed = (
            _averaged(preds_T, log_w)
            if self.mix == 'logits'
            else torch.logsumexp(log_w.unsqueeze(2) + F.log_softmax(preds_T, dim=2), dim=1)
        )
        said = {f'teacher_weight_{i}': mean for i, mean in enumerate(means)}
        return dict(agreement=agreement(preds_S, mixed), teacher_entropy=entropy, **said)

    def _logits(self, preds_S: Tensor, preds_T: Tensor) -> tuple[Tensor, Tensor]:
        """Check, leave half precision, cut the teachers' graph; return (N, C) and (N, M, C)."""
        name = type(self).__name__
        each = preds_T.unsqueeze(1) if preds_T.dim() == 2 else preds_T
        fits = preds_S.dim() == 2 and each.dim() == 3 and each.shape[1] > 0
        if not fits or preds_S.shape != each[:, 0].shape or preds_S.shape[1] < 2:
            raise ValueError(
                f'{name} needs logits (N, C) of the student and (N, M, C) of M teachers, of at '
                f'least 2 classes, but preds_S has {tuple(preds_S.shape)} and preds_T has '
                f'{tuple(preds_T.shape)}: record the classifier of the teachers by '
                'kd_plugins.EveryCheckpoint.'
            )
        return at_least_float32(preds_S), at_least_float32(each.detach())

    @staticmethod
    def _of(embedding: nn.Linear) -> Tensor:
        return at_least_float32(embedding.weight)


def _averaged(preds_T: Tensor, log_weights: Tensor) -> Tensor:
    """Return the weighted mean, (N, C), of logits (N, M, C)."""
    return (log_weights.exp().unsqueeze(-1) * preds_T).sum(dim=1)


def _pooled(features: Tensor) -> Tensor:
    """Average maps over their places: (N, D, H, W), or (N, M, D, H, W)."""
    features = at_least_float32(features)
    if features.dim() < 4:
        return features
    return features.mean(dim=(-2, -1))
