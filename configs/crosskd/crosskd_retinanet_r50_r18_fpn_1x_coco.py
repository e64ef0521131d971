# bash tools/dist_train.sh configs/crosskd/crosskd_retinanet_r50_r18_fpn_1x_coco.py 8
_base_ = [
    'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py',
    '../_base_/distill/crosskd_boxes.py',
    '../_base_/detection_runtime.py',
]
default_hooks = _base_.safe_hooks

model = dict(
    _delete_=True,
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.model,
    teacher=dict(cfg_path='mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', pretrained=True),
    distiller=_base_.distiller,
)
