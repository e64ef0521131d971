resnet18 = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet_CIFAR', depth=18, zero_init_residual=False),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=200,
        in_channels=512,
        loss=dict(type='CrossEntropyLoss'),
        init_cfg=None,  # torch's own start, as published
    ),
)
