# ResNet-20 teaches a small vision transformer; a leaf adds a distiller.
_base_ = [
    '../datasets/cifar10-small.py',
    '../schedules/cifar10-small_vit_bs64.py',
    '../default_runtime.py',
    'cifar10-small.py',
    'cifar10-small_vit.py',
]

model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.distilled,
    teacher=_base_.teacher,
    teacher_ckpt='work_dirs/resnet20_1xb64_cifar10-small/epoch_30.pth',
)
