# python tools/train.py configs/vanilla/resnet20_1xb64_cifar10-small.py
_base_ = [
    '../_base_/models/cifar10-small.py',
    '../_base_/datasets/cifar10-small.py',
    '../_base_/schedules/cifar10-small_bs64.py',
    '../_base_/default_runtime.py',
]
model = _base_.teacher

param_scheduler = dict(T_max=30)
train_cfg = dict(max_epochs=30)
