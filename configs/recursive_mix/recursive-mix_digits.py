# python tools/train.py configs/recursive_mix/recursive-mix_digits.py
_base_ = [
    '../_base_/datasets/digits.py',
    '../_base_/schedules/digits_bs32.py',
    '../_base_/digits_runtime.py',
    '../_base_/distill/recursive_mix.py',
    '../_base_/models/digits.py',
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
                type='kd_plugins.RecursiveMixLoss', loss_weight=0.1, channels=16, num_classes=10
            ),
        ),
        **_base_.distiller,
    ),
)
