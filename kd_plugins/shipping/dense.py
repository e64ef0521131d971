"""What dense detectors compute, as a function of tensors: their outputs, or detections."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from kd_plugins.shipping.suppression import check_nms, clip, gather, large_enough, suppress


def refuse(head: nn.Module, why: str) -> ValueError:
    """Return the error of a head that is not written as ONNX."""
    return ValueError(f'{type(head).__name__} is not written as ONNX: {why}.')


def same(first: Any, second: type, *names: str) -> bool:
    """Whether an object's methods of these names are those of a class, not overridden."""
    return all(getattr(type(first), name, None) is getattr(second, name) for name in names)


class DenseOutputs(nn.Module):
    """A dense detector up to its head's outputs.

    ``forward(images, sizes)`` returns the maps of every level, in the order of
    :attr:`names`.

    Args:
        detector: A single-stage detector of mmdet.

    Raises:
        ValueError: If it is none.
    """

    #: What it returns.
    gives = 'maps'

    def __init__(self, detector: nn.Module) -> None:
        from mmdet.models import SingleStageDetector

        super().__init__()
        if not same(detector, SingleStageDetector, 'predict', 'extract_feat'):
            raise refuse(detector, 'only dense detectors and R-CNN are')
        self.detector: Any = detector
        #: What the head calls its outputs.
        self.kinds = list(inspect.signature(self.head.predict_by_feat).parameters)
        self.names: list[str] = []

    @property
    def head(self) -> Any:
        """The detector's head."""
        return self.detector.bbox_head

    def maps(self, images: Tensor) -> dict[str, list[Tensor]]:
        """Return the head's maps by kind and level."""
        outputs = self.head(self.detector.extract_feat(images))
        found = dict(zip(self.kinds, outputs, strict=False))
        for kind, levels in found.items():
            if not all(isinstance(level, Tensor) for level in levels):
                raise refuse(self.head, f'its {kind} are no maps, one a level')
        return found

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of every kind and level."""
        found = self.maps(images)
        self.names = [f'{kind}.{i}' for kind in found for i in range(len(found[kind]))]
        return tuple(level for levels in found.values() for level in levels)


class DenseDetector(DenseOutputs):
    """A dense detector with decoding and suppression, as its ``predict`` does it.

    ``forward(images, sizes)`` returns boxes, scores and labels as
    :func:`kd_plugins.shipping.suppression.suppress` does. Boxes are corners in
    pixels of ``images``.

    Args:
        detector: A single-stage detector of mmdet.

    Raises:
        ValueError: If its head decodes in another way than those that are known.
    """

    gives = 'detections'

    def __init__(self, detector: nn.Module) -> None:
        super().__init__(detector)
        self.names = ['boxes', 'scores', 'labels']
        self.candidates = candidates_of(self.head)
        check_nms(self.head.test_cfg.nms, 'test_cfg.nms')

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """Return boxes (N, D, 4), scores (N, D) and labels (N, D)."""
        settings = self.head.test_cfg
        maps = self.maps(images).values()
        boxes, scores, labels, valid = self.candidates(self.head, *maps, sizes=sizes)
        most = settings.get('max_per_img')  # YOLOX has none
        return suppress(boxes, scores, labels, valid, settings.nms, most)


def candidates_of(head: Any) -> Any:
    """Return the function that makes boxes of a head's outputs.

    Raises:
        ValueError: If there is none for this head.
    """
    from mmdet.models.dense_heads import GFLHead, YOLOXHead
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead

    loss = getattr(head, 'loss_cls', None)
    if getattr(loss, 'custom_cls_channels', False):
        raise refuse(head, f'{type(loss).__name__} has an activation of its own')
    if getattr(head, 'predict_box_type', 'hbox') != 'hbox':
        raise refuse(head, f'its boxes are {head.predict_box_type!r} (only hbox is known)')
    if same(head, BaseDenseHead, 'predict'):
        decoding = ('predict_by_feat', '_bbox_post_process')
        if same(head, YOLOXHead, *decoding, '_bbox_decode'):
            return yolox_candidates
        if same(head, BaseDenseHead, *decoding):
            single = '_predict_by_feat_single'
            if same(head, BaseDenseHead, single) or same(head, GFLHead, single, 'anchor_center'):
                return candidates
    raise refuse(head, 'it decodes in its own way; its --raw-outputs can be')


def candidates(
    head: Any,
    cls_scores: list[Tensor],
    bbox_preds: list[Tensor],
    score_factors: list[Tensor] | None = None,
    *,
    sizes: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return boxes, scores, labels and validity, as mmdet's BaseDenseHead and GFLHead."""
    integral = getattr(head, 'integral', None)
    priors = head.prior_generator.grid_priors(
        [level.shape[-2:] for level in cls_scores], cls_scores[0].dtype, cls_scores[0].device
    )
    parts: list[tuple[Tensor, ...]] = []
    for i, (cls_score, bbox_pred) in enumerate(zip(cls_scores, bbox_preds, strict=True)):
        scores = probabilities(rows(cls_score, head.cls_out_channels), head.use_sigmoid_cls)
        best, place, labels = most_likely(scores, head.test_cfg)
        if integral is None:
            deltas = gather(rows(bbox_pred, head.bbox_coder.encode_size), place)
        else:
            # A sum, and no product of matrices, which would be made int8.
            bins = gather(rows(bbox_pred, 4 * (head.reg_max + 1)), place)
            bins = bins.reshape(bins.shape[0], -1, 4, head.reg_max + 1).softmax(-1)
            deltas = (bins * integral.project).sum(-1) * head.prior_generator.strides[i][0]
        valid = best > head.test_cfg.get('score_thr', 0)
        if score_factors is not None:
            best = best * rows(score_factors[i], 1).squeeze(-1).sigmoid().gather(1, place)
        parts.append((priors[i][place], deltas, best, labels, valid))
    prior, deltas, best, labels, valid = (torch.cat(part, 1) for part in zip(*parts, strict=True))
    prior = prior if integral is None else head.anchor_center(prior.flatten(0, 1))
    boxes = decode(head.bbox_coder, prior, deltas, sizes)
    return boxes, best, labels, valid & large_enough(boxes, head.test_cfg)


def yolox_candidates(
    head: Any,
    cls_scores: list[Tensor],
    bbox_preds: list[Tensor],
    objectnesses: list[Tensor],
    *,
    sizes: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return boxes, scores, labels and validity, as mmdet's YOLOXHead."""
    priors = head.prior_generator.grid_priors(
        [level.shape[-2:] for level in cls_scores],
        cls_scores[0].dtype,
        cls_scores[0].device,
        with_stride=True,
    )
    levels = [rows(level, head.cls_out_channels) for level in cls_scores]
    best, labels = torch.cat(levels, 1).sigmoid().max(-1)
    objects = torch.cat([rows(level, 1) for level in objectnesses], 1).squeeze(-1)
    scores = best * objects.sigmoid()
    deltas = torch.cat([rows(level, 4) for level in bbox_preds], 1)
    boxes = head._bbox_decode(torch.cat(priors), deltas)
    return boxes, scores, labels, scores >= head.test_cfg.score_thr


def rows(level: Tensor, width: int) -> Tensor:
    """Return a map (N, A * width, H, W) as rows of its places, (N, H * W * A, width)."""
    return level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, width)


def probabilities(logits: Tensor, sigmoid: bool) -> Tensor:
    """Return the probabilities of classes, without that of the background."""
    return logits.sigmoid() if sigmoid else logits.softmax(-1)[..., :-1]


def most_likely(scores: Tensor, settings: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return the ``nms_pre`` best of scores (N, P, C), their places and classes, (N, K)."""
    classes = scores.shape[-1]
    flat = scores.flatten(1)
    index = best_of(flat, settings.get('nms_pre', -1))
    place = torch.div(index, classes, rounding_mode='floor')
    return flat.gather(1, index), place, index - place * classes


def best_of(scores: Tensor, most: int) -> Tensor:
    """Return the places of the ``most`` best of scores (N, P), of all where it is not positive."""
    number: Any = torch._shape_as_tensor(scores)[1]
    if most > 0:
        # A tensor, which tracing does not turn into a constant.
        number = torch.minimum(number, torch.tensor(most))
    return scores.topk(number, dim=1).indices


def decode(coder: Any, priors: Tensor, deltas: Tensor, sizes: Tensor) -> Tensor:
    """Return the boxes (N, P, 4) of deltas (N, P, D), within pictures where the coder clips."""
    if priors.dim() == 3:
        priors = priors.flatten(0, 1)
    boxes = coder.decode(priors, deltas.flatten(0, 1))
    boxes = boxes.reshape(deltas.shape[0], -1, 4)
    return clip(boxes, sizes) if coder.clip_border else boxes
