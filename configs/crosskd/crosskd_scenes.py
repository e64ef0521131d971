# python tools/train.py configs/vanilla/gfl_scenes_teacher.py
# python tools/train.py configs/crosskd/crosskd_scenes.py
_base_ = ['../vanilla/gfl_scenes_student.py', '../_base_/distill/crosskd.py']

# The student's branches have one convolution of 32 channels, the teacher's two of 64.
model = dict(
    _delete_=True,
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.student,
    teacher=_base_.teacher,
    teacher_ckpt='work_dirs/gfl_scenes_teacher/epoch_12.pth',
    distiller=dict(
        _base_.distiller,
        student_recorders=dict(
            _base_.distiller.student_recorders,
            inside=dict(type='kd_plugins.HeadFeatures', after=1),
        ),
        teacher_recorders=dict(
            _base_.distiller.teacher_recorders,
            cross=dict(type='kd_plugins.CrossHead', question='inside', connector='wider'),
        ),
        connectors=dict(
            wider=dict(type='kd_plugins.CrossKDConnector', in_channels=32, out_channels=64)
        ),
    ),
)
