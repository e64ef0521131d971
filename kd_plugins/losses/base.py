"""What the losses share: checks, precision, weight, batch mean."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.structures import Progress, TopLogits
from kd_plugins.temperatures import as_temperature

#: How far from 1 the labels of a picture may sum, in half precision.
MIXTURE = 1e-2


def at_least_float32(logits: Tensor) -> Tensor:
    """Return logits, or features, in float32, or in float64 if they are that already.

    Half precision cannot hold ``exp`` of ordinary logits, whatever autocast
    would choose, so every loss leaves it first.
    """
    return logits if logits.dtype == torch.float64 else logits.float()


def full_precision(x: Tensor) -> AbstractContextManager:
    """Switch autocast off, which would run matrix products in half precision."""
    return torch.autocast(x.device.type, enabled=False)


def batch_mean(values: Tensor) -> Tensor:
    """Mean of per-sample values of shape (N,); 0, with a gradient, if N is 0."""
    return values.sum() / max(values.numel(), 1)


def agreement(preds_S: Tensor, preds_T: Tensor) -> Tensor:
    """Share in % of the samples, (N, C, ...), for which both networks' first class is one."""
    return 100 * batch_mean((preds_S.argmax(1) == preds_T.argmax(1)).float())


def needed_arguments(loss: nn.Module | type[nn.Module]) -> list[str]:
    """Return the arguments that a loss, or every loss of a class, cannot do without.

    They are those of its ``forward`` that have no default, and ``gt_labels`` where its
    attribute ``needs_labels`` is True.
    """
    return [
        name
        for name, parameter in inspect.signature(loss.forward).parameters.items()
        if name != 'self'
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and (
            parameter.default is parameter.empty
            or (name == 'gt_labels' and getattr(loss, 'needs_labels', False))
        )
    ]


def check_tensors(owner: str, **preds: Any) -> None:
    """Refuse what is no tensor, such as all outputs of a module that returns several."""
    for name, value in preds.items():
        if isinstance(value, Tensor):
            continue
        kind, right = type(value).__name__, 'map it to a record of a tensor in'
        if isinstance(value, (tuple, list)):
            kind += f' of {len(value)}'
            to = f' (to {len(value) - 1})' if len(value) > 1 else ''
            right = f'add data_idx=0{to} to its entry in'
        raise ValueError(
            f'{owner}.{name} is a {kind}, not a tensor: {right} loss_forward_mappings.'
        )


def check_logits(owner: str, preds_S: Tensor, preds_T: Tensor, least: int = 2) -> None:
    """Refuse anything but two sets of logits of the same shape (N, C), with enough classes."""
    check_tensors(owner, preds_S=preds_S, preds_T=preds_T)
    if preds_S.dim() == preds_T.dim() == 2 and len(preds_S) < len(preds_T):
        raise ValueError(
            f'{owner} compares picture by picture, but preds_S has {len(preds_S)} rows and preds_T '
            f'has {len(preds_T)}: the module of the student sees some of the pictures only, as the '
            'heads of a MultiTaskHead see those with labels; record such a head with '
            "dict(type='kd_plugins.TaskLogits', task=...) on both sides."
        )
    if preds_S.dim() != 2 or preds_S.shape != preds_T.shape:
        raise ValueError(
            f'{owner} needs logits of the same shape (N, C) from both networks, but preds_S has '
            f'{tuple(preds_S.shape)} and preds_T has {tuple(preds_T.shape)}: check that '
            'loss_forward_mappings name the classifiers and that both have the same classes.'
        )
    if preds_S.shape[1] < least:
        raise ValueError(
            f'{owner} needs at least {least} classes, but the logits have {preds_S.shape[1]}.'
        )


def check_labels(owner: str, gt_labels: Tensor, preds: Tensor) -> None:
    """Refuse anything but classes, (N,), or mixed labels, (N, C), of logits (N, C).

    In every batch: labels of one picture would be compared with all of them.
    """
    check_tensors(owner, gt_labels=gt_labels)
    shape, number = tuple(gt_labels.shape), len(preds)
    integers = not gt_labels.is_floating_point() and gt_labels.dtype != torch.bool
    if shape != tuple(preds.shape) and not (shape == (number,) and integers):
        fewer = '; where some pictures have no label, as of a task of a MultiTaskHead, take '
        fewer += 'kd_plugins.KDLoss, which needs none'
        raise ValueError(
            f'{owner}.gt_labels has shape {shape} and dtype {gt_labels.dtype} for logits of shape '
            f'{tuple(preds.shape)}: give integer classes of shape (N,) or mixed labels of shape '
            '(N, C), for example the inputs of head.loss_module, data_idx=1'
            f'{fewer if shape and shape[0] < number else ""}.'
        )


def check_top_logits(owner: str, preds_S: Tensor, preds_T: TopLogits) -> None:
    """Refuse anything but logits (N, C) and the largest of as many samples and classes."""
    check_tensors(owner, preds_S=preds_S)
    if preds_S.shape != (len(preds_T.values), preds_T.num_classes):
        raise ValueError(
            f"{owner}: preds_S has the shape {tuple(preds_S.shape)}, and the teacher's largest "
            f'logits are of {len(preds_T.values)} samples and {preds_T.num_classes} classes: check '
            'that loss_forward_mappings name the classifiers and that both have the same classes.'
        )


def check_features(owner: str, preds_S: Tensor, preds_T: Tensor, dim: int | None = None) -> None:
    """Refuse features of other batches, without a batch, or of other than ``dim`` dimensions."""
    check_tensors(owner, preds_S=preds_S, preds_T=preds_T)
    dims = [preds.dim() for preds in (preds_S, preds_T)]
    wrong = min(dims) < 2 or (dim is not None and dims != [dim, dim])
    if wrong or preds_S.shape[0] != preds_T.shape[0]:
        shape = {None: '(N, ...)', 2: '(N, C)', 4: '(N, C, H, W)'}[dim]
        raise ValueError(
            f'{owner} needs features of shape {shape} from both networks, of one batch, but '
            f'preds_S has {tuple(preds_S.shape)} and preds_T has {tuple(preds_T.shape)}: check the '
            'sources of the recorders that loss_forward_mappings name (and data_idx where a '
            'module returns several).'
        )


class WeightedLoss(nn.Module):
    """Base of the losses with a weight.

    Args:
        loss_weight: Factor of the whole loss, finite and at least 0. At 0 the
            loss is still computed, so that all ranks agree on the graph.

    Attributes:
        lower_bound: What the loss, before its weight, is never below but for
            rounding; None where it has no such bound. A loss below it is wrong,
            and ``DistillationGuardHook`` treats it as one that is not finite.
    """

    lower_bound: float | None = 0.0

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = self._check_weight('loss_weight', loss_weight)

    def _check_weight(self, key: str, value: float) -> float:
        return checks.number(
            f'{type(self).__name__}.{key}', value, 'a finite weight, 0 or above', least=0
        )


class LogitsLoss(WeightedLoss):
    """Base of the losses on logits with a temperature and a weight.

    Args:
        tau: The temperature: a number above 0, the config of a temperature
            module, or a module (see :class:`kd_plugins.temperatures.Temperature`).
        loss_weight: As in :class:`WeightedLoss`.

    Attributes:
        protocol: Whether the classes share a ``'softmax'`` or have a ``'sigmoid'``
            each; networks whose head does the other are refused.
        least_classes: How many there have to be.
    """

    protocol = 'softmax'
    least_classes = 2

    def __init__(
        self, tau: float | Mapping[str, Any] | nn.Module, loss_weight: float = 1.0
    ) -> None:
        super().__init__(loss_weight)
        self.tau = as_temperature(tau, f'{type(self).__name__}.tau')
        self.progress: Progress | None = None

    def set_progress(self, progress: Progress | None) -> None:
        """Take the progress of the training; called before every step."""
        self.progress = progress

    def _prepare(self, preds_S: Tensor, preds_T: Tensor) -> tuple[Tensor, Tensor, float | Tensor]:
        """Check, leave half precision, cut the teacher's graph, ask the temperature."""
        check_logits(type(self).__name__, preds_S, preds_T, self.least_classes)
        preds_S = at_least_float32(preds_S)
        preds_T = at_least_float32(preds_T.detach())
        tau = self.tau(preds_S, preds_T)
        return *self.tau.transform(preds_S, preds_T), tau
