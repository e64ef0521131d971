# python tools/train.py configs/recursive_mix/recursive-mix_resnet8_1xb64_cifar10-small.py
_base_ = [
    '../_base_/datasets/cifar10-small.py',
    '../_base_/schedules/cifar10-small_bs64.py',
    '../_base_/default_runtime.py',
    '../_base_/distill/recursive_mix.py',
    '../_base_/models/cifar10-small.py',
]

model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.student,
    teacher=None,
    batch_parts=[dict(type='kd_plugins.RecursiveMix', alpha=0.5)],
    distiller=dict(
        # 0.1: the published weight on CIFAR.
        distill_losses=dict(
            loss_rm=dict(
                type='kd_plugins.RecursiveMixLoss', loss_weight=0.1, channels=64, num_classes=10
            ),
        ),
        **_base_.distiller,
    ),
)
