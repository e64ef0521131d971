# python tools/train.py configs/fullmatch/fullflex_resnet8_1xb8_cifar10-small-40.py
_base_ = ['fullmatch_resnet8_1xb8_cifar10-small-40.py']

model = dict(
    distiller=dict(
        connectors=dict(
            pseudo_labels=dict(type='kd_plugins.FlexiblePseudoLabels', num_unlabelled=5000)
        ),
    ),
)
