# python tools/train.py configs/vanilla/resnet20_1xb64_cifar10-small.py
# python tools/train.py configs/dot/dot_dkd_resnet20_resnet8_1xb64_cifar10-small.py
_base_ = ['../dkd/dkd_resnet20_resnet8_1xb64_cifar10-small.py']

optim_wrapper = dict(type='kd_plugins.DOTOptimWrapper', delta=0.075)
