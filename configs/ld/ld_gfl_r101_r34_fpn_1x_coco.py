# bash tools/dist_train.sh configs/ld/ld_gfl_r101_r34_fpn_1x_coco.py 8
_base_ = [
    'mmdet::ld/ld_r34-gflv1-r101_fpn_1x_coco.py',
    '../_base_/distill/ld_gfl_r101_coco.py',
    '../_base_/detection_runtime.py',
]
default_hooks = _base_.safe_hooks

model = dict(teacher_config=_base_.teacher_config)
