# python tools/train.py configs/eekd/even_digits_teacher.py
# python tools/train.py configs/eekd/eekd_digits.py
_base_ = ['../_base_/models/digits_distill.py', '../_base_/distill/eekd.py']

model = dict(
    architecture=dict(head=dict(loss=dict(loss_weight=0.5))),
    teacher_ckpt=[f'work_dirs/even_digits_teacher/even/epoch_{n}.pth' for n in (6, 12, 18, 24, 30)],
    distiller=dict(
        **_base_.eekd,
        distill_losses=dict(
            loss_kd=dict(
                type='kd_plugins.EEKDLoss',
                tau=5.0,
                channels_S=16,
                channels_T=64,
                loss_weight=0.5,
            ),
        ),
    ),
)
del _base_.eekd
