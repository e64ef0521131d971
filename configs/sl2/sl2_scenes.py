# python tools/train.py configs/vanilla/gfl_scenes_teacher.py
# python tools/train.py configs/sl2/sl2_scenes.py
_base_ = ['../_base_/models/gfl_scenes_distill.py']

model = dict(
    distiller=dict(
        teacher_recorders=dict(head=dict(type='kd_plugins.DetectionHead')),
        distill_losses=dict(
            loss_sl2=dict(
                type='kd_plugins.SL2Loss',
                channels_S=[32, 32],
                channels_T=[64, 64],
                loss_weight=6.0,
            ),
        ),
        loss_forward_mappings=dict(
            loss_sl2=dict(_base_.levels, head_T=dict(recorder='head', from_student=False)),
        ),
    ),
)
del _base_.wider, _base_.pairs, _base_.levels
