# A vision transformer of 16 patches for 8 x 8 pictures, alone and distilled.
arch = dict(embed_dims=32, num_layers=3, num_heads=4, feedforward_channels=64)
alone = dict(
    type='ImageClassifier',
    backbone=dict(type='VisionTransformer', arch=arch, img_size=8, patch_size=2, in_channels=1),
    neck=None,
    head=dict(
        type='VisionTransformerClsHead',
        num_classes=10,
        in_channels=32,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
    ),
    init_cfg=[
        dict(type='TruncNormal', layer='Linear', std=0.02),
        dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
    ],
)
distilled = dict(
    type='ImageClassifier',
    backbone=dict(
        type='DistilledVisionTransformer', arch=arch, img_size=8, patch_size=2, in_channels=1
    ),
    neck=None,
    head=dict(
        type='kd_plugins.DistilledViTHead',
        num_classes=10,
        in_channels=32,
        loss=dict(type='CrossEntropyLoss', loss_weight=0.5),
    ),
    init_cfg=alone['init_cfg'],
)
