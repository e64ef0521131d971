# python tools/train.py configs/vanilla/vit_1xb64_cifar10-small.py
_base_ = [
    '../_base_/models/cifar10-small_vit.py',
    '../_base_/datasets/cifar10-small.py',
    '../_base_/schedules/cifar10-small_vit_bs64.py',
    '../_base_/default_runtime.py',
]
model = _base_.alone
