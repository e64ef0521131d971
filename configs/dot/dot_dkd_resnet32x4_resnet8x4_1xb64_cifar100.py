# python tools/train.py configs/vanilla/resnet32x4_1xb64_cifar100.py
# python tools/train.py configs/dot/dot_dkd_resnet32x4_resnet8x4_1xb64_cifar100.py
_base_ = ['../dkd/dkd_resnet32x4_resnet8x4_1xb64_cifar100.py']

optim_wrapper = dict(type='kd_plugins.DOTOptimWrapper', delta=0.075)
