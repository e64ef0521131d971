# bash tools/dist_train.sh configs/vanilla/retinanet_swin-t_fpn_1x_coco.py 8
# bash tools/dist_train.sh configs/crosskd/crosskd_retinanet_swin-t_r50_fpn_1x_coco.py 8
_base_ = [
    'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    '../_base_/distill/crosskd_boxes.py',
    '../_base_/detection_runtime.py',
]
default_hooks = _base_.safe_hooks

model = dict(
    _delete_=True,
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.model,
    teacher=dict(cfg_path='mmdet::swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py'),
    teacher_ckpt='work_dirs/retinanet_swin-t_fpn_1x_coco/epoch_12.pth',
    distiller=_base_.distiller,
)
