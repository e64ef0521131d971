# python tools/train.py configs/vanilla/gfl_scenes-other_teacher.py
# python tools/train.py configs/bckd/bckd_scenes-60.py
_base_ = ['../vanilla/gfl_scenes-60_student.py', '../_base_/distill/bckd.py']

model = dict(
    _delete_=True,
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.student,
    teacher=_base_.teacher,
    teacher_ckpt='work_dirs/gfl_scenes-other_teacher/epoch_12.pth',
    distiller=_base_.distiller,
)
