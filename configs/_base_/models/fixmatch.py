# The networks of FixMatch and its kin: WRN-28-2 (CIFAR-10, SVHN), WRN-28-8 (CIFAR-100), WRN-37-2
# (STL-10) and ResNet-50 (ImageNet).
def _classifier(num_classes, in_channels, **backbone):
    return dict(
        type='ImageClassifier',
        backbone=backbone,
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=num_classes,
            in_channels=in_channels,
            loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
            init_cfg=dict(type='Xavier', layer='Linear', distribution='normal'),
        ),
    )


_wide = dict(type='kd_plugins.FixMatchWideResNet', depth=28)
networks = dict(
    cifar10=_classifier(10, 128, **_wide, widen_factor=2),
    cifar100=_classifier(100, 512, **_wide, widen_factor=8),
    stl10=_classifier(10, 256, **_wide, widen_factor=2, num_stages=4, first_stride=2),
    in1k=_classifier(1000, 2048, type='ResNet', depth=50),
)
networks['svhn'] = networks['cifar10']
