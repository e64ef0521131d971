mobilenetv2 = dict(
    type='ImageClassifier',
    backbone=dict(type='kd_plugins.TinyImageNetMobileNetV2'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=200,
        in_channels=1280,
        loss=dict(type='CrossEntropyLoss'),
        init_cfg=None,  # torch's own start, as published
    ),
)
