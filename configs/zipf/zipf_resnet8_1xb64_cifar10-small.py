# python tools/train.py configs/zipf/zipf_resnet8_1xb64_cifar10-small.py
_base_ = [
    '../_base_/datasets/cifar10-small.py',
    '../_base_/schedules/cifar10-small_bs64.py',
    '../_base_/default_runtime.py',
    '../_base_/distill/zipf.py',
    '../_base_/models/cifar10-small.py',
]

model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.student,
    teacher=None,
    distiller=dict(
        # 0.1: the published weight on CIFAR-100.
        distill_losses=dict(loss_zipf=dict(type='kd_plugins.ZipfLoss', loss_weight=0.1)),
        **_base_.distiller,
    ),
)
# Maps of 8 x 8 pixels, and so 256 votes, as published.
model['distiller']['student_recorders']['dense']['upsample'] = 2
