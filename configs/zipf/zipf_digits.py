# python tools/train.py configs/zipf/zipf_digits.py
_base_ = [
    '../_base_/datasets/digits.py',
    '../_base_/schedules/digits_bs32.py',
    '../_base_/digits_runtime.py',
    '../_base_/distill/zipf.py',
    '../_base_/models/digits.py',
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
# Maps of 4 x 4 pixels, and so 64 votes, as published.
model['distiller']['student_recorders']['dense']['upsample'] = 2
