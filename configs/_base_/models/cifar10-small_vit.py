# A vision transformer of 16 patches for 32 x 32 pixels, alone and distilled: a class
# token, or beside it a distillation token with a classifier of its own.
arch = dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=192)
alone = dict(
    type='ImageClassifier',
    backbone=dict(type='VisionTransformer', arch=arch, img_size=32, patch_size=8),
    neck=None,
    head=dict(
        type='VisionTransformerClsHead',
        num_classes=10,
        in_channels=96,
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
    backbone=dict(type='DistilledVisionTransformer', arch=arch, img_size=32, patch_size=8),
    neck=None,
    head=dict(
        type='kd_plugins.DistilledViTHead',
        num_classes=10,
        in_channels=96,
        loss=dict(type='CrossEntropyLoss', loss_weight=0.5),
    ),
    init_cfg=alone['init_cfg'],
)
