"""DIST: both networks' probabilities are to be correlated, not equal."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_plugins.losses.base import LogitsLoss, agreement, batch_mean
from kd_plugins.registry import MODELS
from kd_plugins.temperatures import InstanceTemperature
from kd_plugins.temperatures.base import per_sample

__all__ = ['DISTLoss', 'dist_loss']

#: Added to the product of both lengths in the published code.
EPS = 1e-8
#: The least length of the student's centred values, as a share of that of the values.
LEAST = 0.02


def dist_loss(preds_S: Tensor, preds_T: Tensor, tau: float | Tensor) -> tuple[Tensor, Tensor]:
    r"""The two parts of DIST: ``tau^2 * (1 - r)`` of each sample, and of each class.

    r is Pearson's correlation of both networks' probabilities at temperature tau:

    * of a sample, over the classes (the "inter-class" relation),
    * of a class, over the samples of the batch (the "intra-class" relation).

    Args:
        preds_S: The student's logits, shape (N, C).
        preds_T: The teacher's logits, shape (N, C).
        tau: The temperature, above 0: a number, or a tensor of shape ().

    Returns:
        Tensors of shape (N,) and (C,), from 0 to ``2 * tau^2``. Where one network's values are
        all the same, r is 0, and its gradient stays within 1 / LEAST of their size.

    Source: Huang, You, Wang, Qian, Xu, "Knowledge Distillation from A Stronger Teacher",
    NeurIPS 2022, arXiv 2205.10536, equations 5 to 9; the constant 1e-8 is that of
    github.com/hunto/image_classification_sota. It is not small beside a class that is in no
    picture of the batch and of which the teacher is sure: the loss of the class is then nearly
    ``tau^2``, and its gradient nearly 0, as published.
    """
    p_S, p_T = F.softmax(preds_S / tau, dim=1), F.softmax(preds_T / tau, dim=1)
    square = per_sample(tau) ** 2
    of_samples, of_classes = (1 - _correlation(p_S, p_T, dim) for dim in (1, 0))
    return square * of_samples, square * of_classes


def _correlation(x_S: Tensor, x_T: Tensor, dim: int) -> Tensor:
    """Return Pearson's correlation along a dimension; 0 where values are all the same."""
    number = max(x_S.shape[dim], 1)
    a, b = (x - x.sum(dim=dim, keepdim=True) / number for x in (x_S, x_T))
    # Without a least length, a network that says nothing yet would get a gradient of up to
    # 1 / EPS.
    least = LEAST * x_S.detach().norm(dim=dim)
    length = torch.maximum(a.norm(dim=dim), least)
    return (a * b).sum(dim=dim) / (length * b.norm(dim=dim) + EPS)


@MODELS.register_module()
class DISTLoss(LogitsLoss):
    """``beta * mean over samples + gamma * mean over classes`` of :func:`dist_loss`.

    In a config ``kd_plugins.DISTLoss``; mmrazor has one of that name. Labels are not used.

    The samples are those of this process's step: the batch size is part of the loss, and
    pictures of other processes take no part, as published.

    Args:
        tau: The temperature: a number above 0, or a module that gives one number for the
            batch. Published: 4 on CIFAR-100, 1 on ImageNet.
        beta: Weight of the part over samples.
        gamma: Weight of the part over classes; with one sample in the batch it is a constant.
        loss_weight: Factor of the whole loss; published: 2.

    Raises:
        ValueError: On values out of range, a temperature by instance, or logits whose shapes
            differ.

    Source: as :func:`dist_loss`.
    """

    def __init__(
        self,
        tau: float | Mapping[str, Any] | nn.Module = 1.0,
        beta: float = 1.0,
        gamma: float = 1.0,
        loss_weight: float = 2.0,
    ) -> None:
        super().__init__(tau, loss_weight)
        self.beta = self._check_weight('beta', beta)
        self.gamma = self._check_weight('gamma', gamma)
        if any(isinstance(module, InstanceTemperature) for module in self.tau.modules()):
            raise ValueError(
                'DISTLoss.tau=InstanceTemperature gives one temperature per sample, but a class is '
                'compared over all samples: give kd_plugins.GlobalTemperature or a number.'
            )
        self._first_call = True

    def forward(self, preds_S: Tensor, preds_T: Tensor, gt_labels: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar in float32 or better.

        Args:
            preds_S: The student's logits, shape (N, C).
            preds_T: The teacher's logits, shape (N, C); detached here.
            gt_labels: Not used; accepted so that terms can be exchanged in a config.
        """
        preds_S, preds_T, tau = self._prepare(preds_S, preds_T)
        if self._first_call:
            self._check_first_batch(preds_S)
            self._first_call = False
        of_samples, of_classes = dist_loss(preds_S, preds_T, tau)
        # Of no samples there are classes, but nothing to compare them by.
        share = self.gamma if len(preds_S) else 0.0
        loss = self.beta * batch_mean(of_samples) + share * batch_mean(of_classes)
        return loss * self.loss_weight

    def diagnose(
        self, preds_S: Tensor, preds_T: Tensor, gt_labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return both parts as means, without weights, and the agreement, for the log."""
        preds_S, preds_T, tau = self._prepare(preds_S, preds_T)
        of_samples, of_classes = dist_loss(preds_S, preds_T, tau)
        seen = dict(inter=batch_mean(of_samples), intra=batch_mean(of_classes))
        return dict(seen, agreement=agreement(preds_S, preds_T))

    def _check_first_batch(self, preds_S: Tensor) -> None:
        samples, classes = preds_S.shape
        if samples == 1 and self.gamma > 0:
            warnings.warn(
                'DISTLoss: with 1 sample in a batch no class can be compared over the samples, so '
                f'the part of gamma={self.gamma:g} is a constant: give a larger batch_size.',
                stacklevel=3,
            )
        if classes == 2 and self.beta > 0:
            warnings.warn(
                'DISTLoss: over 2 classes the correlation is always 1 or -1, so the part of '
                f'beta={self.beta:g} has no gradient; kd_plugins.KDLoss compares them.',
                stacklevel=3,
            )
