# bash tools/dist_train.sh configs/fullmatch/flexmatch_wrn28-8_8xb8_cifar100-400.py 8
_base_ = ['fixmatch_wrn28-8_8xb8_cifar100-400.py']

model = dict(
    distiller=dict(
        connectors=dict(
            pseudo_labels=dict(type='kd_plugins.FlexiblePseudoLabels', num_unlabelled=50000)
        ),
    ),
)
