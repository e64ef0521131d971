# bash tools/dist_train.sh configs/vanilla/retinanet_swin-t_fpn_1x_coco.py 8
_base_ = [
    'mmdet::swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py',
    '../_base_/detection_runtime.py',
]
default_hooks = _base_.safe_hooks
