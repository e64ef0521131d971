"""Made-up pictures and boxes for detectors."""

from copy import deepcopy

import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData

from helpers import ROOT


def images(seed=0, size=64, classes=3, sizes=None, empty=()):
    """Pictures with two boxes each (none for those in ``empty``), as a data loader gives them."""
    generator = torch.Generator().manual_seed(seed)
    sizes = sizes or [(size, size)] * 2
    inputs = [torch.randint(0, 255, (3, *of), generator=generator) for of in sizes]
    samples = []
    for i, shape in enumerate(sizes):
        info = dict(img_shape=shape, batch_input_shape=shape, pad_shape=shape, scale_factor=(1, 1))
        sample = DetDataSample(metainfo=info)
        corner = torch.rand(2, 2, generator=generator) * 25
        boxes = torch.cat([corner, corner + 16 + 20 * (i % 2)], dim=1)
        labels = torch.randint(classes, (2,), generator=generator)
        sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
        if i in empty:
            sample.gt_instances = sample.gt_instances[labels < 0]
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


GN = dict(type='GN', num_groups=4, requires_grad=True)
STRIDES = [8, 16, 32, 64, 128]
ONE_ANCHOR = dict(
    type='AnchorGenerator', ratios=[1.0], octave_base_scale=8, scales_per_octave=1, strides=STRIDES
)
FOCAL = dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0)
QUALITY = dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0)
GIOU = dict(type='GIoULoss', loss_weight=2.0)
ATSS = dict(assigner=dict(type='ATSSAssigner', topk=9), allowed_border=-1, pos_weight=-1)

#: Detector, head and train_cfg as mmdet's own configs have them.
HEADS = dict(
    GFL=(
        'GFL',
        dict(type='GFLHead', anchor_generator=ONE_ANCHOR, loss_cls=QUALITY, norm_cfg=GN,
             loss_dfl=dict(type='DistributionFocalLoss', loss_weight=0.25), reg_max=16,
             loss_bbox=GIOU),
        ATSS,
    ),
    ATSS=(
        'ATSS',
        dict(type='ATSSHead', anchor_generator=ONE_ANCHOR, loss_cls=FOCAL, norm_cfg=GN,
             bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4,
                             target_stds=[0.1, 0.1, 0.2, 0.2]),
             loss_bbox=GIOU,
             loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0)),
        ATSS,
    ),
    FCOS=(
        'FCOS',
        dict(type='FCOSHead', strides=STRIDES, loss_cls=FOCAL, norm_cfg=GN,
             loss_bbox=dict(type='IoULoss', loss_weight=1.0),
             loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0)),
        None,
    ),
    RetinaNet=(
        'RetinaNet',
        dict(type='RetinaHead', loss_cls=FOCAL, norm_cfg=GN,
             anchor_generator=dict(type='AnchorGenerator', octave_base_scale=4,
                                   scales_per_octave=3, ratios=[0.5, 1.0, 2.0], strides=STRIDES),
             bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4,
                             target_stds=[1.0] * 4),
             loss_bbox=dict(type='L1Loss', loss_weight=1.0)),
        dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0,
                           ignore_iof_thr=-1),
             sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1),
    ),
    RTMDet=(
        'RTMDet',
        dict(type='RTMDetSepBNHead', loss_cls=QUALITY, loss_bbox=GIOU, with_objectness=False,
             exp_on_reg=True, share_conv=True, pred_kernel_size=1, norm_cfg=GN,
             anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=STRIDES),
             bbox_coder=dict(type='DistancePointBBoxCoder')),
        dict(assigner=dict(type='DynamicSoftLabelAssigner', topk=13), allowed_border=-1,
             pos_weight=-1),
    ),
)  # fmt: skip

DELTAS = dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2])
CENTERNESS = dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0)
SUM = dict(reduction='sum', loss_weight=1.0)
#: Heads that say the same in other ways, likewise.
MORE_HEADS = {
    'RetinaSepBN': (
        'RetinaNet',
        dict(HEADS['RetinaNet'][1], type='RetinaSepBNHead', num_ins=5,
             norm_cfg=dict(type='BN', requires_grad=True)),
        HEADS['RetinaNet'][2],
    ),
    'TOOD': (
        'TOOD',
        dict(type='TOODHead', anchor_type='anchor_free', anchor_generator=ONE_ANCHOR,
             bbox_coder=DELTAS, initial_loss_cls=dict(FOCAL, activated=True), norm_cfg=GN,
             loss_cls=dict(QUALITY, activated=True), loss_bbox=GIOU),
        dict(initial_epoch=4, initial_assigner=dict(type='ATSSAssigner', topk=9),
             assigner=dict(type='TaskAlignedAssigner', topk=13), alpha=1, beta=6,
             allowed_border=-1, pos_weight=-1),
    ),
    'VFNet': (
        'VFNet',
        dict(type='VFNetHead', strides=STRIDES, center_sampling=False, dcn_on_last_conv=False,
             use_atss=True, use_vfl=True, norm_cfg=GN,
             loss_cls=dict(type='VarifocalLoss', use_sigmoid=True, alpha=0.75, gamma=2.0,
                           iou_weighted=True, loss_weight=1.0),
             loss_bbox=GIOU, loss_bbox_refine=GIOU),
        ATSS,
    ),
    'PAA': (
        'PAA',
        dict(type='PAAHead', reg_decoded_bbox=True, score_voting=True, topk=9, norm_cfg=GN,
             anchor_generator=ONE_ANCHOR, bbox_coder=DELTAS, loss_cls=FOCAL, loss_bbox=GIOU,
             loss_centerness=CENTERNESS),
        dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.1, neg_iou_thr=0.1, min_pos_iou=0,
                           ignore_iof_thr=-1), allowed_border=-1, pos_weight=-1),
    ),
    'DDOD': (
        'DDOD',
        dict(type='DDODHead', use_dcn=False, anchor_generator=ONE_ANCHOR, bbox_coder=DELTAS,
             loss_cls=FOCAL, loss_bbox=GIOU, loss_iou=CENTERNESS, norm_cfg=GN),
        dict(assigner=dict(type='ATSSAssigner', topk=9, alpha=0.8),
             reg_assigner=dict(type='ATSSAssigner', topk=9, alpha=0.5), allowed_border=-1,
             pos_weight=-1),
    ),
    'YOLOX': (
        'YOLOX',
        dict(type='YOLOXHead', strides=STRIDES, norm_cfg=GN,
             loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, **SUM),
             loss_bbox=dict(type='IoULoss', mode='square', eps=1e-16, **SUM),
             loss_obj=dict(type='CrossEntropyLoss', use_sigmoid=True, **SUM)),
        dict(assigner=dict(type='SimOTAAssigner', center_radius=2.5)),
    ),
}  # fmt: skip


def detector(kind='GFL', classes=3, width=8, strides=None, preprocessor=None, **head):
    """Config of a thin detector of mmdet; ``head`` changes its head."""
    name, head_cfg, train_cfg = deepcopy({**HEADS, **MORE_HEADS}[kind])
    head_cfg.update(num_classes=classes, in_channels=16, feat_channels=16, stacked_convs=1, **head)
    if strides is not None:
        where = head_cfg if 'strides' in head_cfg else head_cfg['anchor_generator']
        where['strides'] = strides
    channels = [width * 2**i for i in range(4)]
    return dict(
        type=name,
        _scope_='mmdet',
        data_preprocessor=preprocessor or dict(
            type='DetDataPreprocessor', mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375], bgr_to_rgb=True, pad_size_divisor=32,
        ),
        backbone=dict(type='ResNet', depth=18, base_channels=width, num_stages=4,
                      out_indices=(0, 1, 2, 3), frozen_stages=-1, norm_eval=False,
                      norm_cfg=dict(type='BN', requires_grad=True), style='pytorch'),
        neck=dict(type='FPN', in_channels=channels, out_channels=16, start_level=1,
                  add_extra_convs='on_output', num_outs=len(strides or STRIDES)),
        bbox_head=head_cfg,
        train_cfg=train_cfg,
        test_cfg=dict(nms_pre=100, min_bbox_size=0, score_thr=0.05,
                      nms=dict(type='nms', iou_threshold=0.6), max_per_img=20),
    )  # fmt: skip


def distillation(student=None, teacher=None, changes=None, whole=None, **distiller):
    """Config of an algorithm with an untrained teacher and BCKD's distiller, or a ``whole`` one."""
    base = whole or Config.fromfile(ROOT / 'configs/_base_/distill/bckd.py').distiller
    base.update(distiller)
    return dict(
        type='kd_plugins.SingleTeacherDistill',
        architecture=student or detector(),
        teacher=teacher or detector(width=16),
        distiller=base,
        allow_random_teacher=True,
        **(changes or {}),
    )


def term(name, from_neck=None, **loss):
    """``distill_losses`` and ``loss_forward_mappings`` of one term more."""
    source = dict(recorder='head') if from_neck is None else dict(recorder='neck', **from_neck)
    mapping = {f'preds_{side}': dict(source, from_student=side == 'S') for side in 'ST'}
    return dict(distill_losses={name: loss}, loss_forward_mappings={name: mapping})


def build(*args, seed=0, spread=True, **kwargs):
    """Build that algorithm; ``spread`` moves both heads away from their flat start."""
    torch.manual_seed(seed)
    model = MODELS.build(distillation(*args, **kwargs))
    model.init_weights()
    if spread:
        for network in (model.student, model.teacher.network):
            with torch.no_grad():
                for p in network.bbox_head.parameters():
                    p.add_(torch.randn_like(p) * 0.1)
    return model


def losses(model, data):
    """The losses of a batch."""
    return model(**model.data_preprocessor(data, True), mode='loss')


def untrained(cfg):
    """The model of a detector's config without anybody's weights, those of depth 101 with 50."""
    init_default_scope(cfg.default_scope)
    model = cfg.model
    if 'teacher' in model:
        model.allow_random_teacher = True
        backbone = dict(model.teacher.get('backbone') or {}, init_cfg=None)
        if 'r101' in model.teacher.get('cfg_path', ''):
            # The same shapes outside, and half of the seconds.
            backbone['depth'] = 50
        model.teacher = dict(model.teacher, backbone=backbone)
        model.teacher.pop('pretrained', None)
    if 'teacher_ckpt' in model:
        model.teacher_ckpt = None
    return model
