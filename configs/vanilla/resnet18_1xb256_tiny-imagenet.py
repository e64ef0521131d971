# python tools/train.py configs/vanilla/resnet18_1xb256_tiny-imagenet.py
_base_ = [
    '../_base_/models/tiny_imagenet.py',
    '../_base_/datasets/tiny_imagenet_bs256.py',
    '../_base_/schedules/tiny_imagenet_bs256_200e.py',
    '../_base_/small_pictures_runtime.py',
]
model = _base_.networks.resnet18
del _base_.networks
