# The networks of the papers' tables on CIFAR-100. A leaf takes _base_.networks.resnet56,
# say, and deletes _base_.networks, which the dumped config would show.
def _network(channels, **backbone):
    """Return a classifier whose head starts as mmpretrain's does."""
    return dict(
        type='ImageClassifier',
        backbone=backbone,
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=100,
            in_channels=channels,
            loss=dict(type='CrossEntropyLoss'),
        ),
    )


def _published(channels, init_cfg=None, **backbone):
    """Return a classifier whose head starts as published: None is torch's own start."""
    network = _network(channels, **backbone)
    network['head']['init_cfg'] = init_cfg
    return network


def _wide_resnet(channels, depth, widen_factor):
    """Return a WRN, whose head starts as torch's own, but with biases of 0."""
    start = dict(
        type='Kaiming',
        layer='Linear',
        a=5**0.5,
        mode='fan_in',
        nonlinearity='leaky_relu',
        distribution='uniform',
    )
    kind = 'kd_plugins.CIFARWideResNet'
    return _published(channels, start, type=kind, depth=depth, widen_factor=widen_factor)


def _resnet(depth):
    return _published(64, type='kd_plugins.CIFARResNet', depth=depth)


def _resnet_x4(depth):
    widths = dict(stem_channels=32, base_channels=64)
    return _published(256, type='kd_plugins.CIFARResNet', depth=depth, **widths)


networks = dict(
    resnet20=_resnet(20),
    resnet32=_resnet(32),
    resnet56=_resnet(56),
    resnet110=_resnet(110),
    resnet8x4=_resnet_x4(8),
    resnet32x4=_resnet_x4(32),
    resnext32_16x4d=_published(
        512,
        dict(type='Kaiming', layer='Linear', mode='fan_in', nonlinearity='relu'),
        type='kd_plugins.CIFARResNeXt',
        depth=32,
        groups=16,
        base_width=4,
    ),
    resnet18=_published(512, type='ResNet_CIFAR', depth=18, zero_init_residual=False),
    resnet34=_published(512, type='ResNet_CIFAR', depth=34, zero_init_residual=False),
    resnet50=_published(2048, type='ResNet_CIFAR', depth=50, zero_init_residual=False),
    wrn16_1=_wide_resnet(64, depth=16, widen_factor=1),
    wrn16_2=_wide_resnet(128, depth=16, widen_factor=2),
    wrn40_1=_wide_resnet(64, depth=40, widen_factor=1),
    wrn40_2=_wide_resnet(128, depth=40, widen_factor=2),
    vgg8=_network(512, type='kd_plugins.CIFARVGG', depth=8),
    vgg11=_network(512, type='kd_plugins.CIFARVGG', depth=11),
    vgg13=_network(512, type='kd_plugins.CIFARVGG', depth=13),
    mobilenetv2=_network(1280, type='kd_plugins.CIFARMobileNetV2'),
    shufflenetv1=_published(960, type='kd_plugins.CIFARShuffleNetV1'),
    shufflenetv2=_published(1024, type='kd_plugins.CIFARShuffleNetV2'),
)
