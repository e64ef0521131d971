"""For FixMatch, FlexMatch, FullMatch and FullFlex: what weak views say about strong ones."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from mmengine import dist
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.losses.base import at_least_float32
from kd_plugins.registry import MODELS
from kd_plugins.structures import PseudoLabelled, ViewLogits

__all__ = ['FlexiblePseudoLabels', 'PseudoLabels', 'class_thresholds', 'label_rank']

UNUSED = -1


def label_rank(preds_S: Tensor, labels: Tensor) -> Tensor:
    """Return the worst place of a label among a batch's logits, counted from 1, of shape ().

    Args:
        preds_S: Logits, (M, C).
        labels: Classes, integers of shape (M,).

    Source: as :class:`PseudoLabels`.
    """
    own = preds_S.gather(1, labels[:, None])
    places = 1 + (preds_S > own).sum(dim=1)
    return torch.cat([places, places.new_ones(1)]).amax()


def class_thresholds(latest: Tensor, num_classes: int) -> Tensor:
    """Return FlexMatch's factor of the cutoff by class, in [0, 1], (C,).

    ``a / (2 - a)``, a being how many pictures have the class by their latest sure label,
    divided by the largest such number; those without any count as a class of their own.

    Args:
        latest: The latest sure label of every unlabelled picture, -1 where there is none.
        num_classes: C.

    Source: Zhang et al., "FlexMatch", NeurIPS 2021, arXiv 2110.08263, equations 5 to 8,
    with its warm-up (equation 11).
    """
    counts = latest.new_zeros(num_classes + 1).scatter_add_(0, latest + 1, torch.ones_like(latest))
    share = counts[1:].float() / counts.amax()
    return share / (2 - share)


@MODELS.register_module()
class PseudoLabels(nn.Module):
    """Label the strong view of every unlabelled picture by its weak view.

    A connector: it makes a :class:`kd_plugins.structures.PseudoLabelled` of what
    :class:`kd_plugins.recorders.ViewLogitsRecorder` records, once a step for all terms
    that ask. ``k`` costs one reduction over the ranks, and nothing waits for it.

    Args:
        cutoff: The probability from which on a label is sure, in (0, 1].

    Raises:
        ValueError: On a cutoff out of range, or another record.

    Source: Sohn et al., "FixMatch", NeurIPS 2020, arXiv 2001.07685; k: Chen et al.,
    "Boosting Semi-Supervised Learning by Exploiting All Unlabeled Data", CVPR 2023,
    arXiv 2303.11066 (FullMatch), and github.com/megvii-research/FullMatch (c54c0b9), which
    finds it by up to C reductions.
    """

    def __init__(self, cutoff: float = 0.95) -> None:
        super().__init__()
        name, right = f'{type(self).__name__}.cutoff', 'a probability above 0, at most 1'
        self.cutoff = checks.number(name, cutoff, right, above=0)
        if cutoff > 1:
            raise checks.refuse(name, cutoff, right)
        self._latest: tuple[Any, PseudoLabelled] | None = None

    @torch.compiler.disable
    @torch.no_grad()
    def forward(self, views: ViewLogits) -> PseudoLabelled:
        """Return the labels of a batch, the same record for the same views."""
        if not isinstance(views, ViewLogits):
            raise ValueError(
                f'{type(self).__name__}.views is a {type(views).__name__}, not the logits of three '
                "views: record them with dict(type='kd_plugins.ViewLogits', source='head.fc')."
            )
        if self._latest is None or self._latest[0]() is not views:
            self._latest = weakref.ref(views), self._label(views)
        return self._latest[1]

    def _label(self, views: ViewLogits) -> PseudoLabelled:
        weak, strong = at_least_float32(views.weak), at_least_float32(views.strong)
        probabilities = weak.softmax(dim=1)
        order = weak.argsort(dim=1, descending=True, stable=True)
        labels = order[:, 0]
        sure = probabilities.amax(dim=1)
        k = label_rank(strong, labels).clamp(min=2)
        dist.all_reduce(k, op='max')
        places = torch.empty_like(order).scatter_(
            1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
        )
        selected = self._select(labels, sure, views)
        return PseudoLabelled(labels, selected, k, places < k, self.cutoff)

    def _select(self, labels: Tensor, sure: Tensor, views: ViewLogits) -> Tensor:
        """Return which labels are learnt."""
        return sure >= self.cutoff


@MODELS.register_module()
class FlexiblePseudoLabels(PseudoLabels):
    """The same with a cutoff for each class: FlexMatch, FullFlex.

    The cutoff of a class is ``cutoff`` times :func:`class_thresholds`: lower where few
    pictures have been labelled with it surely. What every picture was labelled with last is
    in checkpoints, as ``distiller.connectors.*.latest``, and the same on every rank: the
    labels of a step are gathered. In the step itself the cutoffs are those before it.

    Args:
        num_unlabelled: Pictures of the unlabelled dataset.
        cutoff: As in :class:`PseudoLabels`; a label is remembered from it on.

    Raises:
        ValueError: On a setting out of range, or pictures whose numbers are not those of
            such a dataset.

    Source: as :func:`class_thresholds`; github.com/TorchSSL/TorchSSL (f26e1d4),
    models/flexmatch. There, and in FullFlex, every rank counts its own pictures.
    """

    latest: Tensor

    def __init__(self, num_unlabelled: int, cutoff: float = 0.95) -> None:
        super().__init__(cutoff)
        self.num_unlabelled = checks.whole_number(
            f'{type(self).__name__}.num_unlabelled', num_unlabelled
        )
        self.register_buffer('latest', torch.full((num_unlabelled,), UNUSED))

    def check_unlabelled(self, key: str, number: int) -> None:
        """Refuse a dataset of another size, whose pictures would be counted wrongly.

        Args:
            key: The config key of the connector.
            number: Pictures of the unlabelled dataset.
        """
        if number != self.num_unlabelled:
            raise checks.refuse(
                f'{key}.num_unlabelled', self.num_unlabelled,
                f'{number}, the pictures of train_dataloader.dataset.unlabelled',
            )  # fmt: skip

    def _select(self, labels: Tensor, sure: Tensor, views: ViewLogits) -> Tensor:
        numbers = views.sample_idx
        if any(i is None or not 0 <= i < self.num_unlabelled for i in numbers):
            raise ValueError(
                f'{type(self).__name__} counts {self.num_unlabelled} pictures by their '
                f'sample_idx, and a batch has {numbers[:4]} and so on: give PackInputs '
                "meta_keys with 'sample_idx', and num_unlabelled as many pictures as there are."
            )
        factor = class_thresholds(self.latest, views.weak.shape[1]).to(sure.dtype)
        if self.training:
            index = torch.tensor(numbers, dtype=torch.long).to(labels.device)
            self._remember(index, labels.where(sure >= self.cutoff, UNUSED))
        return sure >= self.cutoff * factor[labels]

    def _remember(self, index: Tensor, labels: Tensor) -> None:
        """Take the sure labels of all ranks; the last of a picture that comes twice."""
        index, labels = torch.cat(dist.all_gather(torch.stack([index, labels])), dim=1)
        turn = torch.arange(len(labels), device=labels.device).where(labels != UNUSED, UNUSED)
        last = torch.full_like(self.latest, UNUSED).scatter_reduce_(0, index, turn, 'amax')
        found = last != UNUSED
        if len(labels):
            self.latest.copy_(labels[last.clamp(min=0)].where(found, self.latest))
