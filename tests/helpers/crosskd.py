"""Two detectors for CrossKD whose maps and weights are the same on every machine.

It needs torch and mmdet alone, so that the published code, which has an mmdet of its own, can be
run on the same numbers.
"""

import functools

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from helpers.maps import wave

STRIDES = [8, 16, 32]
SIZE = 64
CLASSES = 4
AFTER, DEPTH = 2, 3
GN = dict(type='GN', num_groups=2, requires_grad=True)
FOCAL = dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0)
ONE_ANCHOR = dict(
    type='AnchorGenerator', ratios=[1.0], octave_base_scale=4, scales_per_octave=1, strides=STRIDES
)
CENTERNESS = dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0)
ATSS = dict(assigner=dict(type='ATSSAssigner', topk=9), allowed_border=-1, pos_weight=-1)
SHARED = dict(num_classes=CLASSES, in_channels=6, feat_channels=6, stacked_convs=DEPTH, norm_cfg=GN)
#: Head and train_cfg as mmdet's own configs have them.
HEADS = dict(
    GFL=(
        dict(type='GFLHead', anchor_generator=ONE_ANCHOR, reg_max=5,
             loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
             loss_dfl=dict(type='DistributionFocalLoss', loss_weight=0.25),
             loss_bbox=dict(type='GIoULoss', loss_weight=2.0)),
        ATSS,
    ),
    ATSS=(
        dict(type='ATSSHead', anchor_generator=ONE_ANCHOR, loss_cls=FOCAL,
             bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4,
                             target_stds=[0.1, 0.1, 0.2, 0.2]),
             loss_bbox=dict(type='GIoULoss', loss_weight=2.0), loss_centerness=CENTERNESS),
        ATSS,
    ),
    FCOS=(
        dict(type='FCOSHead', strides=STRIDES, loss_cls=FOCAL,
             regress_ranges=((-1, 24), (24, 48), (48, 1e8)),
             loss_bbox=dict(type='IoULoss', loss_weight=1.0), loss_centerness=CENTERNESS),
        None,
    ),
    RetinaNet=(
        dict(type='RetinaHead', loss_cls=FOCAL,
             anchor_generator=dict(type='AnchorGenerator', octave_base_scale=4,
                                   scales_per_octave=3, ratios=[0.5, 1.0, 2.0], strides=STRIDES),
             bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4,
                             target_stds=[1.0] * 4),
             loss_bbox=dict(type='L1Loss', loss_weight=1.0)),
        dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0,
                           ignore_iof_thr=-1),
             sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1),
    ),
)  # fmt: skip
#: What the published configs train with.
WEIGHTS = dict(GFL=(1.0, 4.0), ATSS=(1.0, 1.0), FCOS=(0.4, 0.75), RetinaNet=(1.0, 1.0))
IOU = dict(GFL=None, ATSS='GIoULoss', FCOS='IoULoss', RetinaNet='GIoULoss')


def detector(kind):
    """Config of a detector that is a head only: its maps are given."""
    head, train_cfg = HEADS[kind]
    return dict(
        type=kind,
        data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
        backbone=dict(type='ResNet', depth=18, base_channels=2, num_stages=1, strides=(1,),
                      dilations=(1,), out_indices=(0,), init_cfg=None),
        neck=dict(type='FPN', in_channels=[2], out_channels=6, num_outs=1),
        bbox_head=dict(**head, **SHARED),
        train_cfg=train_cfg,
        test_cfg=dict(nms_pre=100, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.6),
                      max_per_img=20),
    )  # fmt: skip


def maps(teacher):
    """The maps that a detector's head is given."""
    return tuple(
        wave((2, 6, SIZE // s, SIZE // s), 1.5, 0.7 + 0.2 * teacher, s + teacher).requires_grad_()
        for s in STRIDES
    )


def prepare(network, teacher):
    """Give the head its weights and the detector its maps; return these."""
    given = maps(teacher)
    network.double()
    network.extract_feat = lambda inputs: given
    head = network.bbox_head
    if hasattr(head, 'loss_by_feat_single'):
        head.loss_by_feat_single = functools.partial(in_float64, head.loss_by_feat_single)
    generator = head.prior_generator
    generator.grid_priors = functools.partial(generator.grid_priors, dtype=torch.float64)
    with torch.no_grad():
        for i, (name, p) in enumerate(head.named_parameters()):
            scale = 0.3 if 'weight' in name else 0.1
            p.copy_(wave(p.shape, scale, 1.1, 0.5 * i + teacher))
            if name.endswith(('gn.weight', 'scale')):
                p.add_(1.0)
            if name.endswith('cls.bias'):
                p.sub_(1.0)
    return given


def in_float64(function, *args, **kwargs):
    """Call a function of a head with float64 for its float32, which mmdet's targets are."""
    floats = (x.double() if getattr(x, 'dtype', 0) == torch.float32 else x for x in args)
    return function(*floats, **kwargs)


def samples(empty=False):
    """Two pictures with boxes of different sizes, or with none."""
    boxes = [[[4, 6, 30, 40], [30, 20, 62, 60]], [[10, 10, 26, 28], [2, 30, 60, 62.0]]]
    found = []
    for i, of_picture in enumerate(boxes):
        shape = (SIZE, SIZE)
        info = dict(img_shape=shape, batch_input_shape=shape, pad_shape=shape, scale_factor=(1, 1))
        sample = DetDataSample(metainfo=info)
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor(of_picture, dtype=torch.float64), labels=torch.tensor([i, 3 - i])
        )
        if empty:
            sample.gt_instances = sample.gt_instances[[False, False]]
        found.append(sample)
    return found


def summary(given, head, total):
    """Of the gradient at every map and every tensor of the head: how many have one, two sums."""
    leaves = [*given, *(p for _, p in sorted(head.named_parameters()))]
    grads = torch.autograd.grad(total, leaves, allow_unused=True, retain_graph=True)
    pairs = zip(grads, leaves, strict=True)
    flat = [(torch.zeros_like(x) if g is None else g).flatten().double() for g, x in pairs]
    row = torch.cat(flat)
    number = sum(bool(g.any()) for g in flat)
    return number, float((row * wave(row.shape, 1, 0.37, 0.1)).sum()), float(row.abs().sum())
