"""What two-stage detectors compute, as a function of tensors: their outputs, or detections."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kd_plugins.shipping.dense import best_of, decode, probabilities, refuse, rows, same
from kd_plugins.shipping.suppression import check_nms, gather, large_enough, suppress


class TwoStageOutputs(nn.Module):
    """A two-stage detector up to the outputs of its last box head.

    ``forward(images, sizes)`` returns the proposals (N, K, 4), refined by a cascade's
    earlier stages, logits of classes (N, K, C + 1), a cascade's averaged, and deltas
    of boxes (N, K, 4 or 4 C). A proposal whose corners are 0 is none.

    Args:
        detector: A two-stage detector of mmdet.

    Raises:
        ValueError: If its heads detect in another way than those that are known.
    """

    gives = 'proposals'
    names = ('proposals', 'cls_scores', 'bbox_preds')

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        check_two_stage(detector)
        self.detector: Any = detector
        check_nms(self.detector.rpn_head.test_cfg.nms, 'test_cfg.rpn.nms')

    @property
    def roi(self) -> Any:
        """The detector's head of regions."""
        return self.detector.roi_head

    @property
    def stages(self) -> list[tuple[Any, Any]]:
        """The box heads and the extractors of their features, one a stage."""
        heads, extractors = one_a_stage(self.roi.bbox_head), self.roi.bbox_roi_extractor
        return list(zip(heads, one_a_stage(extractors), strict=True))

    def propose(self, features: tuple[Tensor, ...], sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Return proposals (N, K, 4) and which of them are any, (N, K)."""
        rpn = self.detector.rpn_head
        settings = rpn.test_cfg
        cls_scores, bbox_preds = rpn(features)
        priors = rpn.prior_generator.grid_priors(
            [level.shape[-2:] for level in cls_scores], cls_scores[0].dtype, cls_scores[0].device
        )
        parts = []
        for i, (cls_score, bbox_pred) in enumerate(zip(cls_scores, bbox_preds, strict=True)):
            logits = rows(cls_score, rpn.cls_out_channels)
            scores = probabilities(logits, rpn.use_sigmoid_cls).squeeze(-1)
            place = best_of(scores, settings.get('nms_pre', -1))
            deltas = gather(rows(bbox_pred, rpn.bbox_coder.encode_size), place)
            best = scores.gather(1, place)
            parts.append((priors[i][place], deltas, best, torch.full_like(place, i)))
        prior, deltas, best, levels = (torch.cat(part, 1) for part in zip(*parts, strict=True))
        boxes = decode(rpn.bbox_coder, prior, deltas, sizes)
        valid = large_enough(boxes, settings)
        boxes, _, levels = suppress(boxes, best, levels, valid, settings.nms, settings.max_per_img)
        return boxes, levels >= 0

    def outputs(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return proposals, logits, deltas, and which proposals are any."""
        features = self.detector.extract_feat(images)
        boxes, valid = self.propose(features, sizes)
        total: Any = 0
        stages = self.stages
        for i, (head, extractor) in enumerate(stages):
            regions = extract(extractor, features[: extractor.num_inputs], boxes)
            if self.roi.with_shared_head:
                regions = self.roi.shared_head(regions)
            logits, deltas = (
                each.reshape(boxes.shape[0], -1, each.shape[-1]) for each in head(regions)
            )
            total = total + logits
            if i + 1 < len(stages):
                boxes = refine(head, boxes, logits, deltas, sizes)
        return boxes, total / len(stages), deltas, valid

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """Return proposals, logits and deltas."""
        boxes, logits, deltas, valid = self.outputs(images, sizes)
        return boxes * valid.unsqueeze(-1), logits, deltas


class TwoStageDetector(TwoStageOutputs):
    """A two-stage detector with decoding and suppression, as its ``predict`` does it.

    ``forward(images, sizes)`` returns what
    :class:`kd_plugins.shipping.dense.DenseDetector` does.

    Args:
        detector: A two-stage detector of mmdet.

    Raises:
        ValueError: If its heads detect in another way than those that are known.
    """

    gives = 'detections'
    names = ('boxes', 'scores', 'labels')

    def __init__(self, detector: nn.Module) -> None:
        super().__init__(detector)
        check_nms(self.roi.test_cfg.nms, 'test_cfg.rcnn.nms')

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """Return boxes (N, D, 4), scores (N, D) and labels (N, D)."""
        head, settings = self.stages[-1][0], self.roi.test_cfg
        proposals, logits, deltas, found = self.outputs(images, sizes)
        scores = logits.softmax(-1)[..., :-1]
        classes = head.num_classes
        # One box a class, those of a class-agnostic head repeated.
        own = 1 if head.reg_class_agnostic else classes
        proposals = repeat(proposals, own)
        boxes = decode(head.bbox_coder, proposals, deltas.reshape(deltas.shape[0], -1, 4), sizes)
        if own == 1:
            boxes = repeat(boxes, classes)
        valid = (scores > settings.score_thr) & found.unsqueeze(-1)
        labels = torch.arange(classes).expand_as(scores)
        scores, labels, valid = (each.flatten(1) for each in (scores, labels, valid))
        most = settings.max_per_img
        most = most if most > 0 else None
        return suppress(boxes, scores, labels, valid, settings.nms, most)


def check_two_stage(detector: Any) -> None:
    """Refuse a two-stage detector whose heads detect in ways of their own.

    Raises:
        ValueError: Naming the head and the reason.
    """
    from mmdet.models import detectors
    from mmdet.models.dense_heads import RPNHead
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
    from mmdet.models.roi_heads import BBoxHead, CascadeRoIHead, SingleRoIExtractor, StandardRoIHead
    from mmdet.models.roi_heads.base_roi_head import BaseRoIHead

    if not same(detector, detectors.TwoStageDetector, 'predict', 'extract_feat'):
        raise refuse(detector, 'it detects in its own way')
    rpn, roi = detector.rpn_head, detector.roi_head
    if not same(rpn, RPNHead, '_predict_by_feat_single', '_bbox_post_process') or not same(
        rpn, BaseDenseHead, 'predict', 'predict_by_feat'
    ):
        raise refuse(rpn, 'it proposes in its own way')
    if roi.with_mask:
        raise refuse(roi, 'it has masks, and only boxes are written')
    forward = '_bbox_forward'
    if not same(roi, BaseRoIHead, 'predict') or not (
        same(roi, StandardRoIHead, forward, 'predict_bbox')
        or same(roi, CascadeRoIHead, forward, 'predict_bbox', '_refine_roi')
    ):
        raise refuse(roi, 'it detects in its own way')
    for head in one_a_stage(roi.bbox_head):
        if not same(
            head, BBoxHead, 'predict_by_feat', '_predict_by_feat_single', 'regress_by_class'
        ):
            raise refuse(head, 'it decodes in its own way')
        if head.custom_cls_channels or head.custom_activation:
            raise refuse(head, f'{type(head.loss_cls).__name__} has an activation of its own')
        if not (head.with_cls and head.with_reg) or head.predict_box_type != 'hbox':
            raise refuse(head, 'it gives no plain boxes with classes')
    for extractor in one_a_stage(roi.bbox_roi_extractor):
        if not same(extractor, SingleRoIExtractor, 'forward', 'map_roi_levels'):
            raise refuse(extractor, 'it gathers features in its own way')
        for layer in extractor.roi_layers:
            if type(layer).__name__ != 'RoIAlign' or layer.pool_mode != 'avg':
                raise refuse(layer, 'only RoIAlign with averages is')


def extract(extractor: Any, features: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
    """Return the features of boxes (N, K, 4), (N * K, C, height, width)."""
    from torchvision.ops import roi_align

    picture = torch.arange(boxes.shape[0]).to(boxes).reshape(-1, 1, 1).expand_as(boxes[..., :1])
    regions = torch.cat([picture, boxes], -1).flatten(0, 1)
    levels = extractor.map_roi_levels(regions, len(features))
    found, places = [], []
    for i, (layer, level) in enumerate(zip(extractor.roi_layers, features, strict=True)):
        place = (levels == i).nonzero().squeeze(1)
        places.append(place)
        found.append(
            roi_align(
                level,
                regions[place],
                layer.output_size,
                layer.spatial_scale,
                layer.sampling_ratio,
                layer.aligned,
            )
        )
    # Where each region lies among those that were gathered level by level.
    place = torch.cat(places)
    order = torch.zeros_like(place).scatter(0, place, torch.arange(place.shape[0]))
    return torch.cat(found)[order]


def refine(head: Any, boxes: Tensor, logits: Tensor, deltas: Tensor, sizes: Tensor) -> Tensor:
    """Return the boxes of the likeliest class, as a cascade hands them to its next stage."""
    if not head.reg_class_agnostic:
        label = logits[..., :-1].argmax(-1)
        own = deltas.reshape(*deltas.shape[:2], -1, head.bbox_coder.encode_size)
        index = label[..., None, None].expand(-1, -1, 1, own.shape[-1])
        deltas = own.gather(2, index).squeeze(2)
    return decode(head.bbox_coder, boxes, deltas, sizes)


def repeat(boxes: Tensor, times: int) -> Tensor:
    """Return boxes (N, K, 4), each so many times, (N, K * times, 4)."""
    return boxes.unsqueeze(2).expand(-1, -1, times, -1).flatten(1, 2)


def one_a_stage(modules: nn.Module) -> list[Any]:
    """Return the modules of a cascade's stages, or the only one."""
    return list(modules) if isinstance(modules, nn.ModuleList) else [modules]
