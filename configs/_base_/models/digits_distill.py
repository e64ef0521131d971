# The digits student beside its trained teacher; a leaf adds distill_losses.
_base_ = [
    '../datasets/digits.py',
    '../schedules/digits_bs32.py',
    '../digits_runtime.py',
    '../distill/logits.py',
    'digits.py',
]

model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.student,
    teacher=_base_.teacher,
    teacher_ckpt='work_dirs/digits_teacher/epoch_30.pth',
    distiller=_base_.distiller,
)
