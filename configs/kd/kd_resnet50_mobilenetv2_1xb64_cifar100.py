# python tools/train.py configs/vanilla/resnet50_1xb64_cifar100.py
# python tools/train.py configs/kd/kd_resnet50_mobilenetv2_1xb64_cifar100.py
_base_ = ['../_base_/models/cifar100_kd.py']

model = dict(
    architecture=_base_.networks.mobilenetv2,
    teacher=_base_.networks.resnet50,
    teacher_ckpt='work_dirs/resnet50_1xb64_cifar100/epoch_240.pth',
)
del _base_.networks

optim_wrapper = dict(optimizer=dict(lr=0.01))
