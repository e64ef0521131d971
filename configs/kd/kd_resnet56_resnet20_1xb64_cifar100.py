# python tools/train.py configs/vanilla/resnet56_1xb64_cifar100.py
# python tools/train.py configs/kd/kd_resnet56_resnet20_1xb64_cifar100.py
_base_ = [
    '../_base_/models/cifar100_kd.py',
    '../_base_/models/cifar100/resnet56.py',
    '../_base_/models/cifar100/resnet20.py',
]

model = dict(
    architecture=_base_.resnet20,
    teacher=_base_.resnet56,
    teacher_ckpt='work_dirs/resnet56_1xb64_cifar100/epoch_240.pth',
)
