"""What every adapter of a detection head does.

An adapter brings what a head's ``forward`` and ``get_targets`` return into the
one form that terms know, :class:`kd_plugins.structures.HeadOutputs`. It
computes no target and no loss: those are upstream's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from mmengine.dist import all_reduce
from torch import Tensor

from kd_plugins.losses.base import at_least_float32, full_precision
from kd_plugins.structures import HeadOutputs, HeadSpec, HeadTargets

#: Boxes end here, in strides. An exponential may send an anchor that no object
#: trains anywhere; areas beyond this would overflow and the IoU be inf / inf.
FAR = 1e6
#: What a box that is inside out measures from edge to edge, in strides.
THIN = 1e-2


@dataclass
class Assigned:
    """One call of the method that a head's targets come from.

    Args:
        args: What it was called with.
        kwargs: The same by name.
        returned: What it returned.
        sampled: Of each call of the head's sampler since the call before: the objects of the
            picture, and what the sampler returned.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    returned: Any
    sampled: Sequence[tuple[Any, Any]]


class HeadAdapter:
    """Base of the adapters: anchors of all levels in a row, logits, lazy boxes.

    Args:
        head: The head, built.

    Raises:
        ValueError: If its classes compete in a softmax.
    """

    #: The method of the head that returns the targets of all pictures, or of one.
    hears: ClassVar[str] = 'get_targets'
    hears_each_picture: ClassVar[bool] = False
    #: Where labels and their weights stand in what it returns; no weights are 1.
    labels_at: ClassVar[int]
    weights_at: ClassVar[int | None]
    #: Where the quality of boxes stands in what ``forward`` returns, if anywhere.
    quality_at: ClassVar[int | None] = None
    #: Whether ``forward`` sends each level through ``cls_convs`` and, apart from them,
    #: ``reg_convs``, one after the other, and reads nothing else of the level.
    branches: ClassVar[bool] = True

    def __init__(self, head: Any) -> None:
        name = type(head).__name__
        if not getattr(head, 'use_sigmoid_cls', True):
            raise ValueError(
                f'the head {name} was built with loss_cls.use_sigmoid=False: its classes and the '
                'background share a softmax, and distillation of such heads compares sigmoids; '
                'give it a loss_cls with use_sigmoid=True.'
            )
        self.head = head
        generator = head.prior_generator
        anchors = tuple(generator.num_base_priors)
        shapes = None
        if max(anchors) > 1:
            shapes = tuple(
                tuple(tuple(round(x, 3) for x in box) for box in level.tolist())
                for level in generator.base_anchors
            )
        self.spec = HeadSpec(
            head=name,
            num_classes=int(head.num_classes),
            strides=tuple(_number(stride) for stride in generator.strides),
            anchors=anchors,
            shapes=shapes,
            num_bins=self.num_bins(),
        )

    def num_bins(self) -> int | None:
        """Return the bins per side of a box, None where distances are numbers."""
        return None

    def logits(self, outs: Sequence[Any]) -> Sequence[Tensor]:
        """Return the class logits of every level, (N, anchors * classes, H, W)."""
        return outs[0]

    def decode(self, preds: Tensor, priors: Tensor, strides: Tensor) -> Tensor:
        """Return boxes in strides, (M, 4).

        Args:
            preds: What the head predicts of every anchor, (M, ...).
            priors: Anchors, (M, 4) corners, or (M, 2 or more), a point first; in pixels.
            strides: Strides of the anchors' levels, (M, 1), in pixels.
        """
        raise NotImplementedError

    def outputs(self, outs: Sequence[Any], returned: Sequence[Any] | None) -> HeadOutputs:
        """Return the record of what ``forward`` returned.

        Args:
            outs: That.
            returned: As in :meth:`positive_and_weights`; None without targets.
        """
        cls_scores, box_preds = outs[0], outs[1]
        preds = _joined(box_preds, 4 * (self.spec.num_bins or 1))
        shapes = [(level.shape[-2], level.shape[-1]) for level in cls_scores]
        level_sizes = tuple(
            height * width * anchors
            for (height, width), anchors in zip(shapes, self.spec.anchors, strict=True)
        )

        def boxes() -> Tensor:
            n, device = len(preds), preds.device
            with full_precision(preds):
                priors = torch.cat(self.head.prior_generator.grid_priors(shapes, device=device))
                strides = torch.cat(
                    [
                        priors.new_full((size, 1), stride)
                        for size, stride in zip(level_sizes, self.spec.strides, strict=True)
                    ]
                )
                flat = at_least_float32(preds).flatten(0, 1)
                decoded = self.decode(flat, priors.repeat(n, 1), strides.repeat(n, 1))
            return opened(decoded.clamp(-FAR, FAR)).reshape(n, -1, 4)

        bins = self.spec.num_bins
        quality = None
        if self.quality_at is not None:
            quality = _joined(outs[self.quality_at], 1).squeeze(2)
        return HeadOutputs(
            head=self.spec.head,
            level_sizes=level_sizes,
            cls_logits=_joined(self.logits(outs), self.spec.num_classes),
            decode=boxes,
            bin_logits=None if bins is None else preds.unflatten(2, (4, bins)),
            targets=None if returned is None else self.targets(returned, len(preds), level_sizes),
            grids=tuple(shapes),
            quality_logits=quality,
        )

    def positive_and_weights(
        self, returned: Sequence[Any], images: int
    ) -> tuple[Tensor, Tensor | None]:
        """Return which anchors are positive, and what they weigh, None for 1; (N, A) each.

        Args:
            returned: What the method that is heard returned, or a list of what it
                returned of each picture.
            images: The number of pictures.
        """
        labels = in_rows(returned[self.labels_at], images)
        positive = (labels >= 0) & (labels < self.spec.num_classes)
        if self.weights_at is None:
            return positive, None
        return positive, in_rows(returned[self.weights_at], images)

    def targets(
        self, returned: Sequence[Any], images: int, level_sizes: tuple[int, ...]
    ) -> HeadTargets:
        """Return the record of the targets of a number of images.

        Averages the number of positives over ranks: all of them must call.

        Args:
            returned, images: As in :meth:`positive_and_weights`.
            level_sizes: Anchors of each level.
        """
        positive, weights = self.positive_and_weights(returned, images)
        if weights is None:
            weights = torch.ones_like(positive, dtype=torch.float32)
        num_pos = positive.sum(dim=1).clamp(min=1).sum().float()
        quality = self.sum_quality(returned, positive)
        sums = torch.stack([num_pos, num_pos if quality is None else quality])
        all_reduce(sums, op='mean')
        return HeadTargets(
            positive=positive,
            label_weights=weights,
            level_sizes=level_sizes,
            num_pos=sums[0],
            sum_quality=None if quality is None else sums[1].clamp(min=1),
        )

    def sum_quality(self, returned: Sequence[Any], positive: Tensor) -> Tensor | None:
        """Return the sum of the targets of the positives' quality on this rank.

        None where the head's own loss does not divide by it.

        Args:
            returned: As in :meth:`positive_and_weights`.
            positive: What that method returned.
        """
        return None

    def scores(self, positive: Tensor, assigned: Sequence[Assigned]) -> Tensor | None:
        """Return the scores of the objects that positive anchors stand for, 1 of others, (N, A).

        None where the objects have none.

        Args:
            positive: Which anchors are positive, booleans of shape (N, A).
            assigned: The calls that gave the targets.
        """
        sampled = [each for call in assigned for each in call.sampled]
        if not any('scores' in objects for objects, _ in sampled):
            return None
        rows = torch.ones_like(positive, dtype=torch.float32)
        for row, mask, (objects, result) in zip(rows, positive, sampled, strict=True):
            # Leaving anchors out, as heads do before they assign, keeps the order of the others.
            row[mask] = objects.scores[result.pos_assigned_gt_inds].to(row)
        return rows


def _joined(levels: Sequence[Tensor], channels: int) -> Tensor:
    """Return (N, A, channels) of maps (N, anchors * channels, H, W), one a level."""
    rows = [level.flatten(2).transpose(1, 2) for level in levels]
    if len({level.shape[2] for level in rows}) > 1:
        rows = [level.reshape(len(level), -1, channels) for level in rows]
    # Views until here: what is copied, is copied once.
    return torch.cat(rows, dim=1).reshape(len(rows[0]), -1, channels)


def in_rows(levels: Sequence[Tensor], images: int) -> Tensor:
    """Return values of all anchors, (N, A), of those of each level, one picture after another."""
    return torch.cat([level.reshape(images, -1) for level in levels], dim=1)


def opened(boxes: Tensor) -> Tensor:
    """Return boxes whose right is not left of their left, nor their bottom above their top.

    Heads that predict plain numbers for distances (RTMDet's ``exp_on_reg=False``)
    turn boxes inside out, and an IoU loss of such a box has no lower bound: it
    would be driven there. Such a box counts as a thin one at its first edge; one
    without any area would get no gradient. The gradient passes by the
    correction, so that the loss can open the box again.
    """
    first, last = boxes.split(2, dim=-1)
    gap = first.detach() - last.detach()
    return torch.cat([first, last + torch.where(gap > 0, gap + THIN, 0)], dim=-1)


def plain(boxes: Any) -> Tensor:
    """Return the tensor of what a coder decoded, which may be a box type."""
    return getattr(boxes, 'tensor', boxes)


def _number(stride: Any) -> int:
    return int(stride[0] if isinstance(stride, (tuple, list)) else stride)
