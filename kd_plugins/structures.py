"""Small immutable records that the parts of the package hand to each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Progress:
    """How far a training has come, as the train loop reports it.

    Every curriculum of the package is a pure function of this record, hence
    right after a resume without being saved.

    Args:
        iter: Iterations completed before the current one, counted from 0.
        max_iters: Iterations of the whole training, at least 1.
        epoch: Epochs completed before the current one, counted from 0.
        max_epochs: Epochs of the whole training. An iteration-based loop has
            no epochs and reports 1.
        seed: The training's seed, the same on every rank.
    """

    iter: int
    max_iters: int
    epoch: int
    max_epochs: int
    seed: int = 0

    @property
    def has_epochs(self) -> bool:
        """Whether an epoch schedule could move at all in this loop."""
        return self.max_epochs > 1

    @classmethod
    def from_message_hub(cls, hub: Any) -> Progress | None:
        """Read what mmengine's always-on ``RuntimeInfoHook`` publishes.

        Args:
            hub: An ``mmengine.logging.MessageHub``.

        Returns:
            The progress, or None outside of a training that a Runner drives.
        """
        keys = ('iter', 'max_iters', 'epoch', 'max_epochs')
        values = [hub.get_info(key) for key in keys]
        if any(value is None for value in values):
            return None
        iter, max_iters, epoch, max_epochs = (int(value) for value in values)
        return cls(iter, max_iters, epoch, max_epochs, int(hub.get_info('shared_seed') or 0))


@dataclass(frozen=True)
class PastedRegion:
    """What RecursiveMix has pasted into every picture of a batch.

    Args:
        box: Where, (x1, y1, x2, y2) in pixels.
        size: Height and width of the pictures in pixels.
        share: The share of the picture that the box covers, in [0, 1].
        preds: What the student said of the pasted pictures when they were whole, its
            logits, (N, C); None where nothing was pasted.
    """

    box: tuple[int, int, int, int]
    size: tuple[int, int]
    share: float
    preds: Tensor | None


@dataclass(frozen=True)
class TopLogits:
    """The k largest logits of a classifier, and what all others amount to.

    Args:
        values: The largest logits, the largest first, (N, k).
        indices: Their classes, integers of shape (N, k).
        rest: Of the other classes the log-sum-exp of ``logits / tau``, (N, T).
        taus: The T temperatures.
        num_classes: How many classes there are in all.
    """

    values: Tensor
    indices: Tensor
    rest: Tensor
    taus: tuple[float, ...]
    num_classes: int


@dataclass(frozen=True)
class ViewRows:
    """Which rows of a batch are what: labelled pictures, then the weak, then the strong views.

    Args:
        labelled: How many pictures with a label.
        unlabelled: How many without, each in a weak and a strong view.
        sample_idx: The numbers of the latter in their dataset; None for one that has none.
    """

    labelled: int
    unlabelled: int
    sample_idx: tuple[int | None, ...]


@dataclass(frozen=True)
class ViewLogits:
    """What a classifier says of a batch of labelled pictures and two views of unlabelled ones.

    Args:
        labelled: Logits of the labelled pictures, (B, C).
        weak: Of the weak views, (M, C).
        strong: Of the strong views of the same pictures, (M, C).
        sample_idx: As in :class:`ViewRows`.
    """

    labelled: Tensor
    weak: Tensor
    strong: Tensor
    sample_idx: tuple[int | None, ...]


@dataclass(frozen=True)
class PseudoLabelled:
    """What the weak views of M pictures say about their strong ones; nothing has a gradient.

    Args:
        labels: The first class of each weak view, integers of shape (M,).
        selected: Which labels are sure enough to learn, booleans of shape (M,).
        k: A number of classes, of shape (): in every strong view of the step, on all
            ranks, the label is among the k first; at least 2.
        candidates: The k first classes of each weak view, booleans of shape (M, C).
        cutoff: The probability from which on a label is sure.
    """

    labels: Tensor
    selected: Tensor
    k: Tensor
    candidates: Tensor
    cutoff: float


@dataclass(frozen=True)
class FeaturesSpec:
    """What can be said about feature maps before the network has run.

    Args:
        source: The name of what they are recorded of, for messages.
        channels: Channels of each level, the finest first.
        strides: Pixels between neighbouring positions, one number a level; None if
            that is not known.
    """

    source: str
    channels: tuple[int, ...]
    strides: tuple[float, ...] | None = None

    @property
    def said(self) -> str:
        """The levels in words, for messages."""
        strides = '' if self.strides is None else f' at strides {list(self.strides)}'
        return f'{len(self.channels)} levels of {list(self.channels)} channels{strides}'

    def check_channels(self, key: str, channels: Sequence[int]) -> None:
        """Refuse to be what a connector cannot take.

        Args:
            key: The config key of the connector.
            channels: Its ``in_channels``, one a level.

        Raises:
            ValueError: Naming the student's maps and ``in_channels``.
        """
        if self.channels != tuple(channels):
            raise ValueError(
                f'{key}.in_channels={list(channels)} does not fit {self.source} of the '
                f'student, which gives {self.said}: give {list(self.channels)}.'
            )


def as_maps(features: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Return one or several features as a list of maps, (N, C, H, W).

    A vector, (N, C), is a map of one position.
    """
    several = [features] if isinstance(features, Tensor) else features
    return [x[:, :, None, None] if x.dim() == 2 else x for x in several]


@dataclass(frozen=True)
class HeadSpec:
    """What can be said about a detection head (mmdet's ``dense_heads``) before it has run.

    Args:
        head: The name of its class, for messages.
        num_classes: Classes, without background.
        strides: Pixels between neighbouring anchors, one number a level.
        anchors: Anchors per location, one number a level.
        shapes: Where a location has several anchors, their boxes, (x1, y1, x2,
            y2) from the location in pixels, level by level; else None, since
            then any two are about the same thing.
        num_bins: Bins per side of a box, where the head predicts a distribution
            over distances; else None.
    """

    head: str
    num_classes: int
    strides: tuple[int, ...]
    anchors: tuple[int, ...]
    shapes: tuple[tuple[tuple[float, ...], ...], ...] | None = None
    num_bins: int | None = None


@dataclass(frozen=True)
class HeadTargets:
    """What the student's own assigner made of a batch; A anchors, all levels in a row.

    Args:
        positive: Which anchors stand for an object, booleans of shape (N, A).
        label_weights: What the head weighs the anchors' classification with,
            (N, A): 0 where an anchor is neither positive nor negative.
        level_sizes: Anchors of each level; they add up to A.
        num_pos: Positive anchors, at least 1 an image, summed over the images,
            averaged over ranks; hence at least 1. Of shape ().
        sum_quality: Of a head whose own box loss divides by it (FCOS), the positives'
            centerness targets, summed over the images, averaged over ranks; at
            least 1. Of shape (); None for the other heads.
        scores: Where the objects are what a teacher has found, how sure it was of the one that a
            positive anchor stands for, in [0, 1], and 1 of all other anchors, (N, A);
            ``label_weights`` are multiplied by it. None where the objects are annotated.
    """

    positive: Tensor
    label_weights: Tensor
    level_sizes: tuple[int, ...]
    num_pos: Tensor
    sum_quality: Tensor | None = None
    scores: Tensor | None = None

    def trusting(self, scores: Tensor) -> HeadTargets:
        """Return the same targets, weighted by scores of shape (N, A)."""
        return replace(self, label_weights=self.label_weights * scores, scores=scores)

    @cached_property
    def weights(self) -> Tensor:
        """``label_weights``, but 0 on levels without a positive anchor, (N, A)."""
        levels = zip(
            self.positive.split(self.level_sizes, dim=1),
            self.label_weights.split(self.level_sizes, dim=1),
            strict=True,
        )
        return torch.cat([weights * positive.any() for positive, weights in levels], dim=1)


@dataclass(frozen=True)
class HeadOutputs:
    """What a detection head predicted for a batch, whichever head it was.

    The anchors of all levels stand in a row, the finest level first, a level's
    in rows of pixels, and all of one location together.

    Args:
        head: The name of the head's class, for messages.
        level_sizes: Anchors of each level; they add up to A.
        cls_logits: Class logits, before the sigmoid, (N, A, C).
        decode: Computes ``boxes``.
        bin_logits: Logits of the distances from the anchor's centre to left, top,
            right and bottom, (N, A, 4, bins), or None if the head has no bins.
        targets: The student's targets; None on the teacher's side.
        grids: Rows and columns of pixels of each level; empty where nobody said.
        quality_logits: Logits of how well a box fits (centerness, or the IoU that PAA
            and DDOD predict), (N, A), or None if the head has none.
        known: Of which anchors logits and bins are the network's own, booleans of shape (N, A);
            None for all. The others have the mean of their level as logits, and no bins.
    """

    head: str
    level_sizes: tuple[int, ...]
    cls_logits: Tensor
    decode: Callable[[], Tensor]
    bin_logits: Tensor | None = None
    targets: HeadTargets | None = None
    grids: tuple[tuple[int, int], ...] = ()
    quality_logits: Tensor | None = None
    known: Tensor | None = None

    @cached_property
    def boxes(self) -> Tensor:
        """Boxes (x1, y1, x2, y2) in units of their level's stride, (N, A, 4).

        In float32 or better, computed when a term first asks.
        """
        return self.decode()


@dataclass(frozen=True)
class BranchesSpec:
    """What can be said about the maps inside of a detection head before it has run.

    Args:
        head: The name of the head's class, for messages.
        after: After how many convolutions of a branch they are taken.
        depth: How many convolutions each branch has.
        channels: Channels of the maps of the classification branch and of the box branch.
    """

    head: str
    after: int
    depth: int
    channels: tuple[int, int]


@dataclass(frozen=True)
class Branches:
    """Maps inside of a detection head, one a level and branch, the finest level first.

    Args:
        cls: Of the branch that classifies, (N, C, H, W) each.
        reg: Of the branch that predicts boxes.
    """

    cls: tuple[Tensor, ...]
    reg: tuple[Tensor, ...]


@dataclass(frozen=True)
class RoISpec:
    """What can be said about the box heads of a two-stage detector before they have run.

    Args:
        head: The name of the RoI head's class, for messages.
        num_classes: Classes, without background.
        stages: Box heads one after the other; more than 1 in a cascade.
    """

    head: str
    num_classes: int
    stages: int


@dataclass(frozen=True)
class RoIOutputs:
    """What one box head of a two-stage detector said of R regions of interest.

    The RoIs are those that the student's own loss was computed on, those of one
    picture after those of another, its objects first.

    Args:
        head: The name of the RoI head's class, for messages.
        stage: Which box head of a cascade it was, counted from 0.
        input_shape: Height and width of the padded batch in which the boxes are given.
        rois: Index of the picture and corners (x1, y1, x2, y2) in pixels, (R, 5).
        cls_logits: Class logits before the softmax, (R, C + 1), background last.
        bbox_preds: Encoded boxes, as the head returned them; None if it has none.
        labels: The student's labels, integers of shape (R,), C for background;
            None on the teacher's side.
        rois_per_image: How many of the R belong to each picture.
        weights: Where the objects are what a teacher has found, how sure it was of the one that
            a RoI was assigned to, in [0, 1], and 1 of background, (R,); else None.
    """

    head: str
    stage: int
    input_shape: tuple[int, int]
    rois: Tensor
    cls_logits: Tensor
    bbox_preds: Tensor | None
    labels: Tensor | None
    rois_per_image: tuple[int, ...]
    weights: Tensor | None = None
