# bash tools/dist_train.sh configs/sl2/sl2_gfl_r101_r50_fpn_1x_coco.py 8
_base_ = [
    'mmdet::gfl/gfl_r50_fpn_1x_coco.py',
    '../_base_/distill/neck.py',
    '../_base_/detection_runtime.py',
]
default_hooks = _base_.safe_hooks

model = dict(
    _delete_=True,
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.model,
    teacher=dict(cfg_path='mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py', pretrained=True),
    distiller=dict(
        _base_.distiller,
        teacher_recorders=dict(
            _base_.distiller.teacher_recorders, head=dict(type='kd_plugins.DetectionHead')
        ),
        distill_losses=dict(
            loss_sl2=dict(
                type='kd_plugins.SL2Loss',
                channels_S=[256] * 5,
                channels_T=[256] * 5,
                loss_weight=6.0,
            ),
        ),
        loss_forward_mappings=dict(
            loss_sl2=dict(_base_.levels, head_T=dict(recorder='head', from_student=False)),
        ),
    ),
)
del _base_.levels
