# bash tools/dist_train.sh configs/eekd/even_resnet34_8xb64_in1k.py 8
_base_ = [
    'mmpretrain::_base_/models/resnet34.py',
    'mmpretrain::_base_/datasets/imagenet_bs64.py',
    '../_base_/schedules/imagenet_bs512_100e.py',
    '../_base_/default_runtime.py',
]

default_hooks = dict(even=dict(type='kd_plugins.EvenCheckpointHook', number=5))
