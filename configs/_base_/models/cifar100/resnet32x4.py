resnet32x4 = dict(
    type='ImageClassifier',
    backbone=dict(type='kd_plugins.CIFARResNet', depth=32, stem_channels=32, base_channels=64),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=100,
        in_channels=256,
        loss=dict(type='CrossEntropyLoss'),
        init_cfg=None,  # torch's own start, as published
    ),
)
