# bash tools/dist_train.sh configs/vanilla/mobilenetv1_8xb64_in1k.py 8
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64.py',
    '../_base_/schedules/imagenet_bs512_100e.py',
    '../_base_/default_runtime.py',
    '../_base_/models/mobilenetv1_in1k.py',
]
model = _base_.mobilenetv1
