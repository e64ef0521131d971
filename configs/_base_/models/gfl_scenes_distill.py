# The scenes' large GFL teaches the small one by the maps of both FPNs, 32 and 64 channels at
# strides 8 and 16. A leaf adds distill_losses and what they are mapped to.
_base_ = ['../../vanilla/gfl_scenes_student.py', '../distill/neck.py']

model = dict(
    _delete_=True,
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.student,
    teacher=_base_.teacher,
    teacher_ckpt='work_dirs/gfl_scenes_teacher/epoch_12.pth',
    distiller=_base_.distiller,
)
# A level of both, the student's brought to the teacher's width.
wider = dict(type='ConvModuleConnector', in_channel=32, out_channel=64, act_cfg=None)
pairs = [
    dict(
        preds_S=dict(_base_.levels.preds_S, data_idx=i, connector=f'wider{i}'),
        preds_T=dict(_base_.levels.preds_T, data_idx=i),
    )
    for i in range(2)
]
