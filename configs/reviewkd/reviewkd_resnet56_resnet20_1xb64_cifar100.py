# python tools/train.py configs/vanilla/resnet56_1xb64_cifar100.py
# python tools/train.py configs/reviewkd/reviewkd_resnet56_resnet20_1xb64_cifar100.py
_base_ = ['../_base_/models/cifar100_reviewkd.py']

model = dict(
    architecture=_base_.networks.resnet20,
    teacher=_base_.networks.resnet56,
    teacher_ckpt='work_dirs/resnet56_1xb64_cifar100/epoch_240.pth',
    distiller=dict(
        student_recorders=dict(levels=dict(sources=_base_.levels.students.resnet)),
        teacher_recorders=dict(levels=dict(sources=_base_.levels.teachers.resnet56)),
        connectors=dict(
            fusion=dict(
                in_channels=[16, 32, 64, 64],
                mid_channels=64,
            ),
        ),
        distill_losses=dict(loss_reviewkd=dict(loss_weight=0.6)),
    ),
)
del _base_.networks, _base_.levels, _base_.reviewkd
