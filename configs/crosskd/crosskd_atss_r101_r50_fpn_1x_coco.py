# bash tools/dist_train.sh configs/crosskd/crosskd_atss_r101_r50_fpn_1x_coco.py 8
_base_ = [
    'mmdet::atss/atss_r50_fpn_1x_coco.py',
    '../_base_/distill/crosskd_boxes.py',
    '../_base_/detection_runtime.py',
]
default_hooks = _base_.safe_hooks

model = dict(
    _delete_=True,
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.model,
    teacher=dict(cfg_path='mmdet::atss/atss_r101_fpn_1x_coco.py', pretrained=True),
    distiller=dict(
        _base_.distiller,
        distill_losses=dict(
            _base_.distiller.distill_losses,
            loss_crosskd_center=dict(type='kd_plugins.CrossKDCenternessLoss', loss_weight=1.0),
        ),
        loss_forward_mappings=dict(
            _base_.distiller.loss_forward_mappings,
            loss_crosskd_center=_base_.distiller.loss_forward_mappings.loss_crosskd_cls,
        ),
    ),
)
