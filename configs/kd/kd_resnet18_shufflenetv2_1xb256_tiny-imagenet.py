# python tools/train.py configs/vanilla/resnet18_1xb256_tiny-imagenet.py
# python tools/train.py configs/kd/kd_resnet18_shufflenetv2_1xb256_tiny-imagenet.py
_base_ = ['../_base_/models/tiny_imagenet_kd.py']

model = dict(
    architecture=_base_.networks.shufflenetv2,
    teacher=_base_.networks.resnet18,
    teacher_ckpt='work_dirs/resnet18_1xb256_tiny-imagenet/epoch_200.pth',
)
del _base_.networks
