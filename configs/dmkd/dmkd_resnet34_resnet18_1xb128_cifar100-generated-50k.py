# python tools/train.py configs/vanilla/resnet34_1xb64_cifar100.py
# python tools/train.py configs/dmkd/dmkd_resnet34_resnet18_1xb128_cifar100-generated-50k.py
_base_ = ['../_base_/models/cifar100_dmkd.py']

model = dict(
    architecture=_base_.networks.resnet18,
    teacher=_base_.networks.resnet34,
    teacher_ckpt='work_dirs/resnet34_1xb64_cifar100/epoch_240.pth',
)
del _base_.networks
