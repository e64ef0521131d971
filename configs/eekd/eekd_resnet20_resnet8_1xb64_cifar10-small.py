# python tools/train.py configs/eekd/even_resnet20_1xb64_cifar10-small.py
# python tools/train.py configs/eekd/eekd_resnet20_resnet8_1xb64_cifar10-small.py
_base_ = ['../_base_/models/cifar10-small_distill.py', '../_base_/distill/eekd.py']

_even = 'work_dirs/even_resnet20_1xb64_cifar10-small/even'
model = dict(
    architecture=dict(head=dict(loss=dict(loss_weight=0.5))),
    teacher_ckpt=[f'{_even}/epoch_{n}.pth' for n in (6, 12, 18, 24, 30)],
    distiller=dict(
        **_base_.eekd,
        distill_losses=dict(
            loss_kd=dict(
                type='kd_plugins.EEKDLoss',
                tau=5.0,
                channels_S=64,
                channels_T=64,
                loss_weight=0.5,
            ),
        ),
    ),
)
del _base_.eekd
