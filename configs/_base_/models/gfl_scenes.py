# A large and a small GFL for 128 x 128 pixels, both with random weights. Digits of 16
# to 48 pixels are found at stride 8: the second stage keeps stride 4, so that three
# stages lie before it instead of ResNet's two; a level of stride 32 would find none.
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
_head = dict(
    type='GFLHead',
    num_classes=10,
    reg_max=8,
    anchor_generator=dict(
        type='AnchorGenerator',
        ratios=[1.0],
        octave_base_scale=4,
        scales_per_octave=1,
        strides=[8, 16],
    ),
    loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
    loss_dfl=dict(type='DistributionFocalLoss', loss_weight=0.25),
    loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
)
_settings = dict(
    train_cfg=dict(
        assigner=dict(type='ATSSAssigner', topk=9), allowed_border=-1, pos_weight=-1, debug=False
    ),
    test_cfg=dict(
        nms_pre=300,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type='nms', iou_threshold=0.6),
        max_per_img=50,
    ),
)
student = dict(
    type='GFL',
    data_preprocessor=data_preprocessor,
    backbone=dict(base_channels=8, stem_channels=8, **_backbone),
    neck=dict(type='FPN', in_channels=[32, 64], out_channels=32, num_outs=2),
    bbox_head=dict(in_channels=32, feat_channels=32, stacked_convs=1, **_head),
    **_settings,
)
teacher = dict(
    type='GFL',
    data_preprocessor=data_preprocessor,
    backbone=dict(base_channels=16, stem_channels=16, **_backbone),
    neck=dict(type='FPN', in_channels=[64, 128], out_channels=64, num_outs=2),
    bbox_head=dict(in_channels=64, feat_channels=64, stacked_convs=2, **_head),
    **_settings,
)
