# bash tools/dist_train.sh configs/vanilla/resnet18_8xb64_in1k.py 8
_base_ = [
    'mmpretrain::_base_/models/resnet18.py',
    'mmpretrain::_base_/datasets/imagenet_bs64.py',
    '../_base_/schedules/imagenet_bs512_100e.py',
    '../_base_/default_runtime.py',
]

# Starts as the student of the distillation configs does.
model = dict(backbone=dict(zero_init_residual=False), head=dict(init_cfg=None))
