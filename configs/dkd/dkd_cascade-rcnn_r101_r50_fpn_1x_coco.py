# bash tools/dist_train.sh configs/dkd/dkd_cascade-rcnn_r101_r50_fpn_1x_coco.py 8
_base_ = [
    'mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py',
    '../_base_/distill/dkd_rois.py',
    '../_base_/detection_runtime.py',
]
default_hooks = _base_.safe_hooks

model = dict(
    _delete_=True,
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.model,
    teacher=dict(cfg_path='mmdet::cascade_rcnn/cascade-rcnn_r101_fpn_20e_coco.py', pretrained=True),
    distiller=_base_.distiller,
)
