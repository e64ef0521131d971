# bash tools/dist_train.sh configs/recursive_mix/recursive-mix_pyramidnet200_2xb32_cifar100.py 2
_base_ = [
    '../_base_/models/pyramidnet200.py',
    '../_base_/datasets/cifar100_bs128.py',
    '../_base_/schedules/pyramidnet_bs64_300e.py',
    '../_base_/small_pictures_runtime.py',
    '../_base_/distill/recursive_mix.py',
]
train_dataloader = dict(batch_size=32)

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
                num_classes=100,
            ),
        ),
        **_base_.distiller,
    ),
)
model['architecture']['head']['num_classes'] = 100
