# The network of Zipf's tables on small pictures, for 100 classes.
preact_resnet18 = dict(
    type='ImageClassifier',
    backbone=dict(type='kd_plugins.CIFARPreActResNet', depth=18),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=100,
        in_channels=512,
        loss=dict(type='CrossEntropyLoss'),
        init_cfg=None,  # torch's own start, as published
    ),
)
