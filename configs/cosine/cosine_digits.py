# python tools/train.py configs/vanilla/digits_teacher.py
# python tools/train.py configs/cosine/cosine_digits.py
_base_ = [
    '../_base_/datasets/digits.py',
    '../_base_/schedules/digits_bs32.py',
    '../_base_/digits_runtime.py',
    '../_base_/distill/cosine.py',
    '../_base_/models/digits.py',
]

model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.student,
    teacher=_base_.teacher,
    teacher_ckpt='work_dirs/digits_teacher/epoch_30.pth',
    distiller=dict(
        _base_.distiller,
        connectors=dict(
            projector=dict(type='kd_plugins.MapsConnector', in_channels=[16], out_channels=[64])
        ),
        distill_losses=dict(
            loss_cosine=dict(type='kd_plugins.CosineLoss', loss_weight=1.0, resize='coarser')
        ),
    ),
)
