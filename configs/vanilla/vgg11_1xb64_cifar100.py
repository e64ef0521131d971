# python tools/train.py configs/vanilla/vgg11_1xb64_cifar100.py
_base_ = [
    '../_base_/models/cifar100.py',
    '../_base_/datasets/cifar100_bs64.py',
    '../_base_/schedules/cifar100_bs64_240e.py',
    '../_base_/small_pictures_runtime.py',
]
model = _base_.networks.vgg11
del _base_.networks
