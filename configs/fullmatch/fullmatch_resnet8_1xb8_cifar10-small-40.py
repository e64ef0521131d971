# python tools/train.py configs/fullmatch/fullmatch_resnet8_1xb8_cifar10-small-40.py
_base_ = ['fixmatch_resnet8_1xb8_cifar10-small-40.py', '../_base_/distill/fullmatch.py']

model = dict(distiller=_base_.fullmatch)
del _base_.fullmatch
