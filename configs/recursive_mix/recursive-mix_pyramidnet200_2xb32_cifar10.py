# bash tools/dist_train.sh configs/recursive_mix/recursive-mix_pyramidnet200_2xb32_cifar10.py 2
_base_ = [
    '../_base_/models/pyramidnet200.py',
    '../_base_/datasets/cifar10_bs32.py',
    '../_base_/schedules/pyramidnet_bs64_300e.py',
    '../_base_/small_pictures_runtime.py',
    '../_base_/distill/recursive_mix.py',
]

model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.pyramidnet200,
    teacher=None,
    batch_parts=[dict(type='kd_plugins.RecursiveMix', alpha=0.5)],
    distiller=dict(
        distill_losses=dict(
            loss_rm=dict(
                type='kd_plugins.RecursiveMixLoss',
                loss_weight=0.1,
                channels=1024,
                num_classes=10,
            ),
        ),
        **_base_.distiller,
    ),
)
