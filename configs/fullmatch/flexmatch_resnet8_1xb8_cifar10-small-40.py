# python tools/train.py configs/fullmatch/flexmatch_resnet8_1xb8_cifar10-small-40.py
_base_ = ['fixmatch_resnet8_1xb8_cifar10-small-40.py']

model = dict(
    distiller=dict(
        connectors=dict(
            pseudo_labels=dict(type='kd_plugins.FlexiblePseudoLabels', num_unlabelled=5000)
        ),
    ),
)
