"""Zipf's label smoothing: wrong classes get shares by the ranks that dense votes give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_plugins import checks
from kd_plugins.losses.base import WeightedLoss, at_least_float32, batch_mean
from kd_plugins.registry import MODELS

#: What every form of target is set by, with the published values.
TARGETS: dict[str, dict[str, float]] = {
    'zipf': dict(power=1.0),
    'constant': dict(),
    'linear': dict(smallest=1e-6),
    'exponential': dict(rate=1.0),
}


def vote_ranks(votes: Tensor, num_classes: int) -> Tensor:
    """Rank classes by their votes: 1 and the number of classes that have more of them.

    Classes of as many votes share a rank, and so do all that have none.

    Args:
        votes: The class that every position votes for, integers of shape (N, V).
        num_classes: C, how many classes there are.

    Returns:
        Integers from 1 to C, shape (N, C). Nothing waits for the device.
    """
    n, positions = votes.shape
    one = votes.new_ones((), dtype=torch.int64)
    counts = votes.new_zeros((n, num_classes), dtype=torch.int64)
    counts.scatter_add_(1, votes, one.expand(votes.shape))
    # Counts are few numbers, 0 to V, so that nothing has to be sorted.
    having = votes.new_zeros((n, positions + 1), dtype=torch.int64)
    having.scatter_add_(1, counts, one.expand(counts.shape))
    as_many_or_fewer = having.cumsum(dim=1)
    return 1 + num_classes - as_many_or_fewer.gather(1, counts)


def zipf_target(ranks: Tensor, gt_labels: Tensor, form: str = 'zipf', **settings: float) -> Tensor:
    """Distribution over the classes that are not right, by their ranks.

    Before it is normalised over these classes, a class of rank r has

    * ``'zipf'``: ``r ** -power``;
    * ``'constant'``: 1;
    * ``'linear'``: a line in r that ends in ``smallest`` at rank C, and adds up to 1
      over the ranks 1 to C;
    * ``'exponential'``: ``exp(-rate * r)``.

    Args:
        ranks: Of all classes, from 1, shape (N, C), of a floating type. The right
            class keeps its rank when it is left out.
        gt_labels: The right classes, integers of shape (N,).
        form: As above.
        **settings: ``power``, ``smallest`` or ``rate``.

    Returns:
        Shape (N, C); 0 at the right class.

    Source: Liang et al., "Efficient One Pass Self-distillation with Zipf's Label
    Smoothing", ECCV 2022, arXiv 2207.12980, equation 4; the other forms are
    those of its code, github.com/megvii-research/zipfls (108e27a).
    """
    classes = ranks.shape[1]
    if form == 'zipf':
        log_share = -settings['power'] * ranks.log()
    elif form == 'constant':
        log_share = torch.zeros_like(ranks)
    elif form == 'linear':
        smallest = settings['smallest']
        slope = 2 * (1 - classes * smallest) / (classes * (classes - 1))
        log_share = ((classes - ranks) * slope + smallest).log()
    else:
        log_share = -settings['rate'] * ranks
    return log_share.scatter(1, gt_labels[:, None], -torch.inf).softmax(dim=1)


def zipf_loss(preds_S: Tensor, target: Tensor, gt_labels: Tensor) -> Tensor:
    """KL divergence over the classes that are not right, per sample.

    Args:
        preds_S: The network's logits, shape (N, C), C >= 2.
        target: A distribution over the other classes, shape (N, C); 0 at the right one.
        gt_labels: The right classes, integers of shape (N,).

    Returns:
        ``KL(target || softmax over the other classes)``, shape (N,). With two
        classes it is 0.

    Source: as :func:`zipf_target`, equation 5.
    """
    right = gt_labels[:, None]
    log_q = preds_S.scatter(1, right, -torch.inf).log_softmax(dim=1)
    # At the right class 0 times -inf would be no number.
    return F.kl_div(log_q.scatter(1, right, 0.0), target, reduction='none').sum(dim=1)


@MODELS.register_module()
class ZipfLoss(WeightedLoss):
    """Zipf's label smoothing: a network's own dense votes rank what is not right.

    It needs no teacher. The classifier is applied at every position of the last
    feature map (and of others, by argument); each position votes for one class.
    Record both with ``kd_plugins.DenseLogits``, whose ``upsample=2`` gives small
    maps more votes. The gradient goes into the logits, and none into the votes.

    Args:
        loss_weight: Factor of the loss, lambda: 0.1 on CIFAR-100 and ImageNet, 1
            on Tiny-ImageNet and iNaturalist.
        target: ``'zipf'``, or another form of :func:`zipf_target`; a mapping sets
            it, ``dict(form='zipf', power=1.0)``, ``dict(form='linear',
            smallest=1e-6)``, ``dict(form='exponential', rate=1.0)``.
        mask: Average over the samples that the network has right, and not over
            all of them. Each process averages over its own.

    Raises:
        ValueError: On values out of range, on logits of other shapes, on labels
            that are not one class a sample, and on ``smallest`` above 1 / C.

    Source: as :func:`zipf_target`.
    """

    #: Of how many classes a label may be made; parts that mix more are refused beside it.
    classes_per_label = 1

    def __init__(
        self,
        loss_weight: float = 1.0,
        target: str | Mapping[str, Any] = 'zipf',
        mask: bool = False,
    ) -> None:
        super().__init__(loss_weight)
        self.form, self.settings = _target_of(target)
        self.mask = checks.flag('ZipfLoss.mask', mask)

    def forward(
        self, preds_S: Tensor, dense_S: Tensor | Sequence[Tensor], gt_labels: Tensor
    ) -> Tensor:
        """Return the loss, a scalar in float32 or better.

        Args:
            preds_S: The network's logits, shape (N, C).
            dense_S: Its dense logits, shape (N, C, H, W), or several of them,
                whose positions all vote.
            gt_labels: The right classes, integers of shape (N,).
        """
        votes = self._votes(preds_S, dense_S, gt_labels)
        preds_S = at_least_float32(preds_S)
        ranks = vote_ranks(votes, preds_S.shape[1]).to(preds_S.dtype)
        target = zipf_target(ranks, gt_labels, self.form, **self.settings)
        losses = zipf_loss(preds_S, target, gt_labels)
        if not self.mask:
            return batch_mean(losses) * self.loss_weight
        right = (preds_S.argmax(dim=1) == gt_labels).to(losses.dtype)
        return (losses * right).sum() / right.sum().clamp(min=1) * self.loss_weight

    def diagnose(
        self, preds_S: Tensor, dense_S: Tensor | Sequence[Tensor], gt_labels: Tensor
    ) -> dict[str, Tensor]:
        """Return how many classes have votes, and the share in % that the right one has.

        For :class:`kd_plugins.hooks.DistillationLogHook`.
        """
        votes = self._votes(preds_S, dense_S, gt_labels)
        ordered = votes.sort(dim=1).values
        voted = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(dim=1)
        right = (votes == gt_labels[:, None]).float()
        return dict(
            voted_classes=batch_mean(voted.float()),
            right_votes=100 * batch_mean(right.mean(dim=1)),
        )

    def _votes(
        self, preds_S: Tensor, dense_S: Tensor | Sequence[Tensor], gt_labels: Tensor
    ) -> Tensor:
        """Check everything; return the class that each position votes for, (N, V)."""
        maps = [dense_S] if isinstance(dense_S, Tensor) else list(dense_S)
        shapes = [tuple(dense.shape) for dense in maps]
        if preds_S.dim() != 2 or any(
            dense.dim() != 4 or dense.shape[:2] != preds_S.shape for dense in maps
        ):
            raise ValueError(
                f'ZipfLoss needs logits (N, C) and dense logits (N, C, H, W) of the same batch and '
                f'classes, but preds_S has {tuple(preds_S.shape)} and dense_S has {shapes}: record '
                "them with type='ModuleOutputs', source='head.fc', and "
                "type='kd_plugins.DenseLogits'."
            )
        classes = preds_S.shape[1]
        if classes < 2:
            raise ValueError('ZipfLoss needs at least 2 classes, but the logits have 1.')
        rows = gt_labels.shape == preds_S.shape and len(gt_labels) > 0
        if rows and bool(((gt_labels != 0).sum(dim=1) == 1).all()):
            raise ValueError(
                f'ZipfLoss.gt_labels are one-hot rows of shape {tuple(gt_labels.shape)}: it takes '
                'one right class a sample, integers of shape (N,), so leave out '
                'data_preprocessor.to_onehot.'
            )
        if gt_labels.shape != preds_S.shape[:1] or gt_labels.dtype != torch.int64:
            raise ValueError(
                f'ZipfLoss.gt_labels has shape {tuple(gt_labels.shape)} and dtype '
                f'{gt_labels.dtype} for logits of shape {tuple(preds_S.shape)}: it takes one right '
                'class a sample, integers of shape (N,), so leave out mixup, CutMix and other '
                'parts that mix labels, or this term where pictures have several classes.'
            )
        smallest = self.settings.get('smallest', 0.0)
        if smallest * classes > 1:
            raise checks.refuse(
                'ZipfLoss.target.smallest',
                smallest,
                f'at most 1 / {classes}, for {classes} classes',
            )
        return torch.cat([dense.detach().argmax(dim=1).flatten(1) for dense in maps], dim=1)


def _target_of(target: str | Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    """Return the form of a target and its settings, checked."""
    given = dict(target) if isinstance(target, Mapping) else dict(form=target)
    form = checks.one_of('ZipfLoss.target', given.pop('form', None), TARGETS)
    for key, value in given.items():
        if key not in TARGETS[form]:
            known = ' or '.join(TARGETS[form]) or 'nothing'
            raise checks.refuse(f'ZipfLoss.target.{key}', value, f'{known} beside form={form!r}')
    settings = {
        key: checks.number(
            f'ZipfLoss.target.{key}', given.get(key, value), 'a finite number above 0', above=0
        )
        for key, value in TARGETS[form].items()
    }
    return form, settings
