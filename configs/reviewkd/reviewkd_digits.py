# python tools/train.py configs/vanilla/digits_teacher.py
# python tools/train.py configs/reviewkd/reviewkd_digits.py
_base_ = [
    '../_base_/datasets/digits.py',
    '../_base_/schedules/digits_bs32.py',
    '../_base_/digits_runtime.py',
    '../_base_/distill/reviewkd.py',
    '../_base_/models/digits.py',
]
_stages = ['backbone.layer1', 'backbone.layer2']
_levels = dict(type='kd_plugins.Features', sources=_stages)

model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.student,
    teacher=_base_.teacher,
    teacher_ckpt='work_dirs/digits_teacher/epoch_30.pth',
    distiller=dict(
        _base_.reviewkd,
        student_recorders=dict(levels=_levels),
        teacher_recorders=dict(levels=_levels),
        connectors=dict(
            fusion=dict(
                type='kd_plugins.ReviewKDConnector',
                in_channels=[8, 16],
                out_channels=[16, 32],
                mid_channels=16,
            ),
        ),
    ),
)
del _base_.reviewkd
