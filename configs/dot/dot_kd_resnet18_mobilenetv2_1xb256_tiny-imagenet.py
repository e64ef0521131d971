# python tools/train.py configs/vanilla/resnet18_1xb256_tiny-imagenet.py
# python tools/train.py configs/dot/dot_kd_resnet18_mobilenetv2_1xb256_tiny-imagenet.py
_base_ = ['../kd/kd_resnet18_mobilenetv2_1xb256_tiny-imagenet.py']

optim_wrapper = dict(type='kd_plugins.DOTOptimWrapper', delta=0.075)
