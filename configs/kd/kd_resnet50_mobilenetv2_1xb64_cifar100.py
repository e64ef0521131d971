# python tools/train.py configs/vanilla/resnet50_1xb64_cifar100.py
# python tools/train.py configs/kd/kd_resnet50_mobilenetv2_1xb64_cifar100.py
_base_ = [
    '../_base_/models/cifar100_kd.py',
    '../_base_/models/cifar100/resnet50.py',
    '../_base_/models/cifar100/mobilenetv2.py',
]

model = dict(
    architecture=_base_.mobilenetv2,
    teacher=_base_.resnet50,
    teacher_ckpt='work_dirs/resnet50_1xb64_cifar100/epoch_240.pth',
)

optim_wrapper = dict(optimizer=dict(lr=0.01))
