# python tools/train.py configs/vanilla/faster-rcnn_scenes_teacher.py
# python tools/train.py configs/dkd/dkd_faster-rcnn_scenes.py
_base_ = ['../vanilla/faster-rcnn_scenes_student.py', '../_base_/distill/dkd_rois.py']

model = dict(
    _delete_=True,
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.student,
    teacher=_base_.teacher,
    teacher_ckpt='work_dirs/faster-rcnn_scenes_teacher/epoch_12.pth',
    distiller=_base_.distiller,
)
