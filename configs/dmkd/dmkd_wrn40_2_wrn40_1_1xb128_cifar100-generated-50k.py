# python tools/train.py configs/vanilla/wrn40_2_1xb64_cifar100.py
# python tools/train.py configs/dmkd/dmkd_wrn40_2_wrn40_1_1xb128_cifar100-generated-50k.py
_base_ = ['../_base_/models/cifar100_dmkd.py']

model = dict(
    architecture=_base_.networks.wrn40_1,
    teacher=_base_.networks.wrn40_2,
    teacher_ckpt='work_dirs/wrn40_2_1xb64_cifar100/epoch_240.pth',
)
del _base_.networks
