"""Stock two-stage detectors of mmdet, as thin as they get, and what distils them."""

import copy
import functools

import numpy as np
import torch
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS, DefaultScope, init_default_scope

from helpers import ROOT
from helpers.detection import images

BASE = ROOT / 'configs/_base_/distill/dkd_rois.py'
#: Of the box heads that have them.
WIDTH = 16
#: The stock config of every kind of RoI head.
HEADS = {
    'Faster': 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'Mask': 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'Cascade': 'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py',
    'Cascade Mask': 'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
    'Double-Head': 'double_heads/dh-faster-rcnn_r50_fpn_1x_coco.py',
    'Dynamic': 'dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco.py',
    'Grid': 'grid_rcnn/grid-rcnn_r50_fpn_gn-head_2x_coco.py',
    'PISA': 'pisa/faster-rcnn_r50_fpn_pisa_1x_coco.py',
    'Libra': 'libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py',
    'C4': 'faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco.py',
}


@functools.cache
def _stock(path):
    # Upstream reads all of its model indices to find a config.
    with DefaultScope.overwrite_default_scope('mmdet'):
        return get_config(f'mmdet::{path}').model


def detector(kind='Faster', classes=3, width=8, rois=32, changes=None):
    """Config of a stock two-stage detector, thin, of depth 18 (C4: 50).

    Args:
        kind: A key of ``HEADS``, or a path in mmdet.
        classes: Without background.
        width: Channels of the first stage of the backbone.
        rois: RoIs of a picture that the box head learns from.
        changes: More to merge into the model: 'roi_head.bbox_head.num_classes' -> value.
    """
    cfg = copy.deepcopy(_stock(HEADS.get(kind, kind)))
    cfg._scope_ = 'mmdet'
    cfg.backbone.update(base_channels=width, init_cfg=None)
    roi, rpn = cfg.roi_head, cfg.rpn_head
    if 'neck' in cfg:
        cfg.backbone.depth = 18
        for neck in cfg.neck if isinstance(cfg.neck, list) else [cfg.neck]:
            if neck.type == 'FPN':
                neck.update(in_channels=[width * 2**i for i in range(4)], out_channels=WIDTH)
            else:
                neck.in_channels = WIDTH
        rpn.update(in_channels=WIDTH, feat_channels=WIDTH)
    else:
        # Its shared head has no width of its own, and takes what ResNet-50 gives.
        cfg.backbone.base_channels = 64
        roi.shared_head.init_cfg = None
        rpn.feat_channels = WIDTH
    for name, part in roi.items():
        for each in part if isinstance(part, list) else [part]:
            if name.endswith('extractor') and 'neck' in cfg:
                each.out_channels = WIDTH
            elif name in ('bbox_head', 'mask_head', 'grid_head'):
                _thin(each, classes, 'neck' in cfg)
    stages = cfg.train_cfg.rcnn
    for stage in stages if isinstance(stages, list) else [stages]:
        stage.sampler.num = rois
    cfg.train_cfg.rpn_proposal.update(nms_pre=100, max_per_img=50)
    cfg.test_cfg.rpn.update(nms_pre=100, max_per_img=50)
    whole = Config(dict(model=cfg))
    whole.merge_from_dict({f'model.{key}': value for key, value in (changes or {}).items()})
    return whole.model


def _thin(head, classes, with_neck):
    thin = dict(
        in_channels=WIDTH, fc_out_channels=WIDTH, conv_out_channels=WIDTH, num_convs=1,
        point_feat_channels=4,
    )  # fmt: skip
    if with_neck:
        head.update({key: value for key, value in thin.items() if key in head})
    if 'norm_cfg' in head and head.norm_cfg:
        head.norm_cfg.num_groups = 4
    if 'num_classes' in head:
        head.num_classes = classes


def pictures(seed=0, size=96, classes=3, **more):
    """Pictures as in ``helpers.detection``, their objects with masks."""
    batch = images(seed, size, classes, **more)
    for picture, sample in zip(batch['inputs'], batch['data_samples'], strict=True):
        boxes = sample.gt_instances.bboxes
        height, width = picture.shape[-2:]
        masks = np.zeros((len(boxes), height, width), dtype=np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.long().tolist(), strict=True):
            mask[y1:y2, x1:x2] = 1
        sample.gt_instances.masks = BitmapMasks(masks, height, width)
    return batch


def distillation(student=None, teacher=None, loss=None, recorder=None, **changes):
    """Config of DKD on RoIs with an untrained teacher.

    Args:
        student, teacher: Configs, or keys of ``HEADS``.
        loss: Changes of the loss on logits.
        recorder: Changes of the teacher's recorder.
        changes: Of the algorithm.
    """
    base = Config.fromfile(BASE).distiller
    base.distill_losses.loss_dkd.loss.update(loss or {})
    base.teacher_recorders.rois.update(recorder or {})
    networks = [
        detector(n) if isinstance(n, str) else n for n in (student or 'Faster', teacher or 'Faster')
    ]
    return dict(
        type='kd_plugins.SingleTeacherDistill',
        architecture=networks[0],
        teacher=networks[1],
        distiller=base,
        allow_random_teacher=True,
        **changes,
    )


def spread(model, names=('roi_head.bbox_head', 'rpn_head'), by=0.1):
    """Move heads away from their flat start, so that classes and boxes differ."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.startswith(names):
                p.add_(torch.randn(p.shape, generator=generator) * by)


def build(*args, seed=0, **kwargs):
    """Build that algorithm, both networks spread differently."""
    init_default_scope('mmdet')
    torch.manual_seed(seed)
    model = MODELS.build(distillation(*args, **kwargs))
    for i, network in enumerate((model.student, model.teacher.network)):
        spread(network, by=0.1 + 0.05 * i)
    return model.train()
