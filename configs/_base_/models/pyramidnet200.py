# The network of RecursiveMix's tables on CIFAR, for 10 classes.
pyramidnet200 = dict(
    type='ImageClassifier',
    backbone=dict(type='kd_plugins.CIFARPyramidNet', depth=200, alpha=240),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=1024,
        loss=dict(type='CrossEntropyLoss'),
        init_cfg=None,  # torch's own start, as published
    ),
)
