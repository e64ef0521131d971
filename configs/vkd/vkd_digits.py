# python tools/train.py configs/vanilla/digits_teacher.py
# python tools/train.py configs/vkd/vkd_digits.py
_base_ = [
    '../_base_/datasets/digits.py',
    '../_base_/schedules/digits_vit_bs32.py',
    '../_base_/digits_runtime.py',
    '../_base_/distill/vkd.py',
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
            loss_vkd=dict(type='kd_plugins.VkDLoss', channels_S=32, channels_T=64, extra_tokens=2),
            loss_kd=dict(type='kd_plugins.KDLoss', tau=1.0),
        ),
        **_base_.distiller,
    ),
)
model['architecture']['head']['loss'] = dict(type='CrossEntropyLoss', loss_weight=1.0)
