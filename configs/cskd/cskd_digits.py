# python tools/train.py configs/vanilla/digits_teacher.py
# python tools/train.py configs/cskd/cskd_digits.py
_base_ = [
    '../_base_/datasets/digits.py',
    '../_base_/schedules/digits_vit_bs32.py',
    '../_base_/digits_runtime.py',
    '../_base_/distill/cskd.py',
    '../_base_/models/digits.py',
    '../_base_/models/digits_vit.py',
]

model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.distilled,
    teacher=_base_.teacher,
    teacher_ckpt='work_dirs/digits_teacher/epoch_30.pth',
    distiller=dict(
        distill_losses=dict(
            loss_deit=dict(type='kd_plugins.DeiTLoss', form='hard', loss_weight=0.5),
            loss_cskd=dict(type='kd_plugins.CSKDLoss', form='hard', decay='linear'),
        ),
        **_base_.distiller,
    ),
)
model['architecture']['backbone']['out_type'] = 'raw'
model['architecture']['head']['predictions'] = 3
