# ResNet-20 teaches ResNet-8; a leaf adds distill_losses.
_base_ = [
    '../datasets/cifar10-small.py',
    '../schedules/cifar10-small_bs64.py',
    '../default_runtime.py',
    '../distill/logits.py',
    'cifar10-small.py',
]

model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.student,
    teacher=_base_.teacher,
    teacher_ckpt='work_dirs/resnet20_1xb64_cifar10-small/epoch_30.pth',
    distiller=_base_.distiller,
)
