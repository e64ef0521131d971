# python tools/train.py configs/zipf/zipf_preact-resnet18_1xb128_cifar100.py
_base_ = [
    '../_base_/models/preact-resnet18.py',
    '../_base_/datasets/cifar100_bs128.py',
    '../_base_/schedules/cifar_bs128_200e.py',
    '../_base_/small_pictures_runtime.py',
    '../_base_/distill/zipf.py',
]

model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.preact_resnet18,
    teacher=None,
    distiller=dict(
        distill_losses=dict(loss_zipf=dict(type='kd_plugins.ZipfLoss', loss_weight=0.1)),
        **_base_.distiller,
    ),
)
# Maps of 4 x 4 pixels, and so 64 votes.
model['distiller']['student_recorders']['dense']['upsample'] = 2
