# python tools/train.py configs/vanilla/resnet32x4_1xb64_cifar100.py
# python tools/train.py configs/kd/kd_resnet32x4_shufflenetv1_1xb64_cifar100.py
_base_ = [
    '../_base_/models/cifar100_kd.py',
    '../_base_/models/cifar100/resnet32x4.py',
    '../_base_/models/cifar100/shufflenetv1.py',
]

model = dict(
    architecture=_base_.shufflenetv1,
    teacher=_base_.resnet32x4,
    teacher_ckpt='work_dirs/resnet32x4_1xb64_cifar100/epoch_240.pth',
)

optim_wrapper = dict(optimizer=dict(lr=0.01))
