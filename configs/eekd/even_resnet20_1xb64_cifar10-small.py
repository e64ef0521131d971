# python tools/train.py configs/eekd/even_resnet20_1xb64_cifar10-small.py
_base_ = ['../vanilla/resnet20_1xb64_cifar10-small.py']

default_hooks = dict(even=dict(type='kd_plugins.EvenCheckpointHook', number=5))
