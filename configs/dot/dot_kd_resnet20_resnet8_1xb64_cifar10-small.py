# python tools/train.py configs/vanilla/resnet20_1xb64_cifar10-small.py
# python tools/train.py configs/dot/dot_kd_resnet20_resnet8_1xb64_cifar10-small.py
_base_ = ['../kd/kd_resnet20_resnet8_1xb64_cifar10-small.py']

optim_wrapper = dict(type='kd_plugins.DOTOptimWrapper', delta=0.075)
