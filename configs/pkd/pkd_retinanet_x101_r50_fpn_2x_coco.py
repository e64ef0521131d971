# bash tools/dist_train.sh configs/pkd/pkd_retinanet_x101_r50_fpn_2x_coco.py 8
_base_ = [
    'mmdet::retinanet/retinanet_r50_fpn_2x_coco.py',
    '../_base_/distill/neck.py',
    '../_base_/detection_runtime.py',
]
default_hooks = _base_.safe_hooks

model = dict(
    _delete_=True,
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.model,
    teacher=dict(cfg_path='mmdet::retinanet/retinanet_x101-64x4d_fpn_1x_coco.py', pretrained=True),
    distiller=dict(
        _base_.distiller,
        distill_losses=dict(
            loss_pkd=dict(type='kd_plugins.PKDLoss', loss_weight=10.0, levels=[0, 1, 2, 3])
        ),
        loss_forward_mappings=dict(loss_pkd=_base_.levels),
    ),
)
del _base_.levels
