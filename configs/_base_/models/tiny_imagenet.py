# The networks of DOT's table on Tiny-ImageNet. A leaf takes _base_.networks.resnet18,
# say, and deletes _base_.networks, which the dumped config would show.
def _network(channels, **backbone):
    return dict(
        type='ImageClassifier',
        backbone=backbone,
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=200,
            in_channels=channels,
            loss=dict(type='CrossEntropyLoss'),
            init_cfg=None,  # torch's own start, as published
        ),
    )


networks = dict(
    resnet18=_network(512, type='ResNet_CIFAR', depth=18, zero_init_residual=False),
    mobilenetv2=_network(1280, type='kd_plugins.TinyImageNetMobileNetV2'),
    shufflenetv2=_network(1024, type='kd_plugins.CIFARShuffleNetV2'),
)
