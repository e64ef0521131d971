# python tools/train.py configs/vanilla/resnet56_1xb64_cifar100.py
# python tools/train.py configs/kd/kd_resnet56_resnet20_1xb64_cifar100.py
_base_ = ['../_base_/models/cifar100_kd.py']

model = dict(
    architecture=_base_.networks.resnet20,
    teacher=_base_.networks.resnet56,
    teacher_ckpt='work_dirs/resnet56_1xb64_cifar100/epoch_240.pth',
)
del _base_.networks
