# A large and a small Faster R-CNN for 128 x 128 pixels, both with random weights. The
# strides are those of gfl_scenes.py; anchors have 16 to 64 pixels.
data_preprocessor = dict(
    type='DetDataPreprocessor',
    mean=[127.0, 127.0, 127.0],
    std=[60.0, 60.0, 60.0],
    bgr_to_rgb=True,
    pad_size_divisor=32,
)
_backbone = dict(
    type='ResNet',
    depth=18,
    strides=(1, 1, 2, 2),
    out_indices=(2, 3),
    frozen_stages=-1,
    norm_cfg=dict(type='BN', requires_grad=True),
    norm_eval=False,
)


def _detector(width):
    """Return a Faster R-CNN whose stages begin with ``width`` channels."""
    channels = 4 * width
    return dict(
        type='FasterRCNN',
        data_preprocessor=data_preprocessor,
        backbone=dict(base_channels=width, stem_channels=width, **_backbone),
        neck=dict(
            type='FPN', in_channels=[4 * width, 8 * width], out_channels=channels, num_outs=2
        ),
        rpn_head=dict(
            type='RPNHead',
            in_channels=channels,
            feat_channels=channels,
            anchor_generator=dict(
                type='AnchorGenerator', scales=[2, 4], ratios=[1.0], strides=[8, 16]
            ),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
            loss_bbox=dict(type='L1Loss', loss_weight=1.0),
        ),
        roi_head=dict(
            type='StandardRoIHead',
            bbox_roi_extractor=dict(
                type='SingleRoIExtractor',
                roi_layer=dict(type='RoIAlign', output_size=5, sampling_ratio=2),
                out_channels=channels,
                featmap_strides=[8, 16],
                finest_scale=24,
            ),
            bbox_head=dict(
                type='Shared2FCBBoxHead',
                in_channels=channels,
                fc_out_channels=4 * channels,
                roi_feat_size=5,
                num_classes=10,
                bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
                reg_class_agnostic=True,
                loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
                loss_bbox=dict(type='L1Loss', loss_weight=1.0),
            ),
        ),
        **_settings,
    )


_assigner = dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5)
_sampler = dict(type='RandomSampler', num=64, pos_fraction=0.5)
_nms = dict(type='nms', iou_threshold=0.7)
_settings = dict(
    train_cfg=dict(
        rpn=dict(
            assigner=dict(_assigner, pos_iou_thr=0.6, neg_iou_thr=0.3, min_pos_iou=0.3),
            sampler=dict(_sampler, add_gt_as_proposals=False),
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
        rpn_proposal=dict(nms_pre=200, max_per_img=100, nms=_nms, min_bbox_size=0),
        rcnn=dict(
            assigner=dict(_assigner, match_low_quality=False),
            sampler=dict(_sampler, pos_fraction=0.25),
            pos_weight=-1,
            debug=False,
        ),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=200, max_per_img=100, nms=_nms, min_bbox_size=0),
        rcnn=dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=50),
    ),
)
student = _detector(8)
teacher = _detector(16)
