# bash tools/dist_train.sh configs/cwd/cwd_retinanet_r101_r50_fpn_1x_coco.py 8
_base_ = [
    'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    '../_base_/distill/neck.py',
    '../_base_/detection_runtime.py',
]
default_hooks = _base_.safe_hooks

model = dict(
    _delete_=True,
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.model,
    teacher=dict(cfg_path='mmdet::retinanet/retinanet_r101_fpn_2x_coco.py', pretrained=True),
    distiller=dict(
        _base_.distiller,
        distill_losses=dict(loss_cwd=dict(type='kd_plugins.CWDLoss', tau=1.0, loss_weight=10.0)),
        loss_forward_mappings=dict(loss_cwd=_base_.levels),
    ),
)
del _base_.levels
