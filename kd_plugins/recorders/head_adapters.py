"""How to read mmdet's detection heads, whose outputs and targets all look different."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_plugins.losses.base import at_least_float32
from kd_plugins.recorders.head_adapter import FAR, Assigned, HeadAdapter, in_rows, plain
from kd_plugins.structures import HeadOutputs


class RetinaAdapter(HeadAdapter):
    """Deltas of anchor boxes; ``get_targets`` returns labels, weights, ..."""

    labels_at, weights_at = 0, 1

    def decode(self, preds: Tensor, priors: Tensor, strides: Tensor) -> Tensor:
        return plain(self.head.bbox_coder.decode(priors, preds)) / strides


class ATSSAdapter(RetinaAdapter):
    """As RetinaNet, one anchor a location; the anchors come before the labels."""

    labels_at, weights_at = 1, 2
    quality_at: ClassVar[int | None] = 2


class GFLAdapter(ATSSAdapter):
    """Distributions over the distances from the anchor's centre, in strides."""

    quality_at = None

    def num_bins(self) -> int:
        return int(self.head.reg_max) + 1

    def decode(self, preds: Tensor, priors: Tensor, strides: Tensor) -> Tensor:
        head = self.head
        return plain(
            head.bbox_coder.decode(head.anchor_center(priors) / strides, head.integral(preds))
        )


class RTMDetAdapter(ATSSAdapter):
    """Distances from points, in pixels."""

    quality_at = None

    def decode(self, preds: Tensor, priors: Tensor, strides: Tensor) -> Tensor:
        return plain(self.head.bbox_coder.decode(priors[:, :2], preds)) / strides


class FCOSAdapter(HeadAdapter):
    """Distances from points; every point counts alike.

    In pixels, but where ``norm_on_bbox`` is set, a head in training gives strides.
    """

    labels_at, weights_at = 0, None
    quality_at = 2

    def outputs(self, outs: Sequence[Any], returned: Sequence[Any] | None) -> HeadOutputs:
        cls_scores, box_preds = outs[0], outs[1]
        head = self.head
        if not (head.norm_on_bbox and head.training):
            pairs = zip(box_preds, self.spec.strides, strict=True)
            box_preds = [at_least_float32(preds) / stride for preds, stride in pairs]
        return super().outputs((cls_scores, box_preds, outs[2]), returned)

    def sum_quality(self, returned: Sequence[Any], positive: Tensor) -> Tensor:
        sides = torch.cat([x.reshape(len(positive), -1, 4) for x in returned[1]], dim=1)
        quality = self.head.centerness_target(sides.flatten(0, 1)).view_as(positive)
        # Of a negative location it is no number, or a meaningless one.
        return quality.where(positive, quality.new_zeros(())).sum().float()

    def scores(self, positive: Tensor, assigned: Sequence[Assigned]) -> Tensor | None:
        # It has no sampler, and its targets are the sides of the boxes.
        (call,) = assigned
        points, objects = call.args
        if not any('scores' in each for each in objects):
            return None
        factors = [
            level.new_full((len(level), 1), stride if self.head.norm_on_bbox else 1)
            for level, stride in zip(points, self.spec.strides, strict=True)
        ]
        places, factor = torch.cat(points), torch.cat(factors)
        labels, sides = (
            [level.reshape(len(positive), -1, *level.shape[1:]) for level in call.returned[i]]
            for i in (0, 1)
        )
        rows = torch.ones_like(positive, dtype=torch.float32)
        all_of = zip(
            rows, positive, torch.cat(labels, 1), torch.cat(sides, 1), objects, strict=True
        )
        for row, mask, label, side, of in all_of:
            boxes = self.head.bbox_coder.decode(places[mask], side[mask] * factor[mask])
            far = (plain(boxes)[:, None] - of.bboxes).abs().sum(-1)
            far = far.masked_fill(label[mask][:, None] != of.labels, torch.inf)
            if len(of):
                row[mask] = of.scores[far.argmin(dim=1)].to(row)
        return rows

    def decode(self, preds: Tensor, priors: Tensor, strides: Tensor) -> Tensor:
        return plain(self.head.bbox_coder.decode(priors / strides, preds))


class PAAAdapter(ATSSAdapter):
    """As ATSS; the labels are those that it gives anew, picture by picture."""

    hears, hears_each_picture = 'paa_reassign', True

    def positive_and_weights(
        self, returned: Sequence[Any], images: int
    ) -> tuple[Tensor, Tensor | None]:
        labels, weights = (torch.stack([each[i] for each in returned]) for i in (0, 1))
        return (labels >= 0) & (labels < self.spec.num_classes), weights

    def scores(self, positive: Tensor, assigned: Sequence[Assigned]) -> Tensor | None:
        # The sampler's anchors are those before some were taken out.
        sampled = assigned[0].sampled
        if not any('scores' in objects for objects, _ in sampled):
            return None
        rows = torch.ones_like(positive, dtype=torch.float32)
        for row, call, (objects, _) in zip(rows, assigned, sampled, strict=True):
            anchors, of_objects = call.args[4:6]
            row[anchors] = objects.scores[of_objects].to(row)
        return rows.where(positive, 1.0)


class DDODAdapter(ATSSAdapter):
    """As ATSS; of its two assignments, that of its classification."""

    hears = 'get_cls_targets'


class TOODAdapter(ATSSAdapter):
    """Gives probabilities, and boxes in strides."""

    quality_at = None
    branches = False

    def logits(self, outs: Sequence[Any]) -> Sequence[Tensor]:
        return [_logit(at_least_float32(level)) for level in outs[0]]

    def decode(self, preds: Tensor, priors: Tensor, strides: Tensor) -> Tensor:
        return preds


class VFNetAdapter(HeadAdapter):
    """Distances from points in pixels, the refined ones, which in training come third.

    Its varifocal loss weighs no labels.
    """

    labels_at, weights_at = 0, None

    def outputs(self, outs: Sequence[Any], returned: Sequence[Any] | None) -> HeadOutputs:
        return super().outputs((outs[0], outs[-1]), returned)

    def positive_and_weights(
        self, returned: Sequence[Any], images: int
    ) -> tuple[Tensor, Tensor | None]:
        positive, _ = super().positive_and_weights(returned, images)
        weights = returned[1]
        if self.head.use_vfl or weights is None:
            return positive, None
        # All levels in one row, those of all pictures after each other.
        sizes = [level.numel() for level in returned[0]]
        return positive, in_rows(weights.split(sizes), images)

    def decode(self, preds: Tensor, priors: Tensor, strides: Tensor) -> Tensor:
        return plain(self.head.bbox_coder.decode(priors, preds)) / strides


class YOLOXAdapter(HeadAdapter):
    """Centres and logarithms of sizes; classes are told where there is an object.

    The logits are those of what it predicts, the probability of an object times that
    of the class: its own loss trains the class on positive anchors only.
    """

    branches = False
    hears, hears_each_picture = '_get_targets_single', True

    def logits(self, outs: Sequence[Any]) -> Sequence[Tensor]:
        return [
            _both(at_least_float32(classes), at_least_float32(objects))
            for classes, _, objects in zip(*outs, strict=True)
        ]

    def positive_and_weights(
        self, returned: Sequence[Any], images: int
    ) -> tuple[Tensor, Tensor | None]:
        return torch.stack([each[0] for each in returned]), None

    def scores(self, positive: Tensor, assigned: Sequence[Assigned]) -> Tensor | None:
        # A picture without an object does not come to its sampler.
        asked = [i for i, call in enumerate(assigned) if call.sampled]
        found = super().scores(positive[asked], assigned)
        if found is None:
            return None
        rows = torch.ones_like(positive, dtype=torch.float32)
        rows[asked] = found
        return rows

    def decode(self, preds: Tensor, priors: Tensor, strides: Tensor) -> Tensor:
        # An infinite size would end in FAR, but its gradient in 0 * inf.
        preds = torch.cat([preds[:, :2], preds[:, 2:].clamp(max=math.log(FAR))], dim=1)
        whole = torch.cat([priors[:, :2], strides, strides], dim=1)
        return self.head._bbox_decode(whole, preds) / strides


#: Every head that can be read. A subclass of one reads alike as long as it keeps
#: ``loss_by_feat``, which takes what ``forward`` returns, and the method that is heard.
ADAPTERS: dict[str, type[HeadAdapter]] = {
    'GFLHead': GFLAdapter,
    'ATSSHead': ATSSAdapter,
    'FCOSHead': FCOSAdapter,
    'RetinaHead': RetinaAdapter,
    'RetinaSepBNHead': RetinaAdapter,
    'RTMDetHead': RTMDetAdapter,
    'TOODHead': TOODAdapter,
    'VFNetHead': VFNetAdapter,
    'PAAHead': PAAAdapter,
    'DDODHead': DDODAdapter,
    'YOLOXHead': YOLOXAdapter,
}


def adapter_of(head: nn.Module) -> HeadAdapter:
    """Return the adapter of a head.

    Raises:
        ValueError: If the head cannot be read, or not by its sigmoids.
    """
    kind: Any = type(head)
    for base in kind.__mro__:
        if base.__name__ in ADAPTERS and base.__module__.startswith('mmdet.'):
            adapter = ADAPTERS[base.__name__]
            same = all(
                getattr(kind, name) is getattr(base, name)
                for name in ('loss_by_feat', adapter.hears)
            )
            if same:
                return adapter(head)
            break
    raise ValueError(
        f'the head {kind.__name__} is not one that can be read: give a detector with one of '
        f'{", ".join(ADAPTERS)}, or a head that inherits its loss and targets from one.'
    )


def _logit(probabilities: Tensor) -> Tensor:
    """Return the logits of probabilities, finite where these are 0 or 1 by rounding."""
    info = torch.finfo(probabilities.dtype)
    return probabilities.clamp(info.tiny, 1 - info.eps).logit()


def _both(a: Tensor, b: Tensor) -> Tensor:
    """Return the logit of the product of two probabilities that are given by theirs."""
    both = F.logsigmoid(a) + F.logsigmoid(b)
    # At 0 the probability is 1 by rounding.
    both = both.clamp(max=-torch.finfo(both.dtype).eps)
    return both - (-torch.expm1(both)).log()
