# python tools/train.py configs/eekd/even_digits_teacher.py
# python tools/train.py configs/eekd/checkpointkd_digits.py
_base_ = ['../_base_/models/digits_distill.py']

model = dict(
    architecture=dict(head=dict(loss=dict(loss_weight=0.5))),
    teacher_ckpt=[f'work_dirs/even_digits_teacher/even/epoch_{n}.pth' for n in (18, 30)],
    distiller=dict(
        teacher_recorders=dict(
            logits=dict(_delete_=True, type='kd_plugins.EveryCheckpoint', source='head.fc')
        ),
        distill_losses=dict(
            loss_kd=dict(
                type='kd_plugins.EEKDLoss', mode='equal', mix='logits', tau=5.0, loss_weight=0.5
            ),
        ),
    ),
)
