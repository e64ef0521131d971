# python tools/train.py configs/vanilla/vgg13_1xb64_cifar100.py
# python tools/train.py configs/dot/dot_ctkd_kd_vgg13_vgg8_1xb64_cifar100.py
_base_ = ['../ctkd/ctkd_kd_vgg13_vgg8_1xb64_cifar100.py']

optim_wrapper = dict(type='kd_plugins.DOTOptimWrapper', delta=0.075)
