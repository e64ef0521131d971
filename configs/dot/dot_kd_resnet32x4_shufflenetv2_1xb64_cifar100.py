# python tools/train.py configs/vanilla/resnet32x4_1xb64_cifar100.py
# python tools/train.py configs/dot/dot_kd_resnet32x4_shufflenetv2_1xb64_cifar100.py
_base_ = ['../kd/kd_resnet32x4_shufflenetv2_1xb64_cifar100.py']

optim_wrapper = dict(type='kd_plugins.DOTOptimWrapper', delta=0.075)
