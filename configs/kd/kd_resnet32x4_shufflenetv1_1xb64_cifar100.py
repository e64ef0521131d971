# python tools/train.py configs/vanilla/resnet32x4_1xb64_cifar100.py
# python tools/train.py configs/kd/kd_resnet32x4_shufflenetv1_1xb64_cifar100.py
_base_ = ['../_base_/models/cifar100_kd.py']

model = dict(
    architecture=_base_.networks.shufflenetv1,
    teacher=_base_.networks.resnet32x4,
    teacher_ckpt='work_dirs/resnet32x4_1xb64_cifar100/epoch_240.pth',
)
del _base_.networks

optim_wrapper = dict(optimizer=dict(lr=0.01))
