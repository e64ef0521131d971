# python tools/train.py configs/vanilla/vgg13_1xb64_cifar100.py
# python tools/train.py configs/kd/kd_vgg13_vgg8_1xb64_cifar100.py
_base_ = [
    '../_base_/models/cifar100_kd.py',
    '../_base_/models/cifar100/vgg13.py',
    '../_base_/models/cifar100/vgg8.py',
]

model = dict(
    architecture=_base_.vgg8,
    teacher=_base_.vgg13,
    teacher_ckpt='work_dirs/vgg13_1xb64_cifar100/epoch_240.pth',
)
