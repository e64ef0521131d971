# python tools/train.py configs/vanilla/resnet110_1xb64_cifar100.py
# python tools/train.py configs/kd/kd_resnet110_resnet32_1xb64_cifar100.py
_base_ = ['../_base_/models/cifar100_kd.py']

model = dict(
    architecture=_base_.networks.resnet32,
    teacher=_base_.networks.resnet110,
    teacher_ckpt='work_dirs/resnet110_1xb64_cifar100/epoch_240.pth',
)
del _base_.networks
