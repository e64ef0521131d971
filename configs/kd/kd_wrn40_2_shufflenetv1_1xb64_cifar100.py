# python tools/train.py configs/vanilla/wrn40_2_1xb64_cifar100.py
# python tools/train.py configs/kd/kd_wrn40_2_shufflenetv1_1xb64_cifar100.py
_base_ = [
    '../_base_/models/cifar100_kd.py',
    '../_base_/models/cifar100/wrn40_2.py',
    '../_base_/models/cifar100/shufflenetv1.py',
]

model = dict(
    architecture=_base_.shufflenetv1,
    teacher=_base_.wrn40_2,
    teacher_ckpt='work_dirs/wrn40_2_1xb64_cifar100/epoch_240.pth',
)

optim_wrapper = dict(optimizer=dict(lr=0.01))
