mobilenetv2 = dict(
    type='ImageClassifier',
    backbone=dict(type='kd_plugins.CIFARMobileNetV2'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=100,
        in_channels=1280,
        loss=dict(type='CrossEntropyLoss'),
    ),
)
