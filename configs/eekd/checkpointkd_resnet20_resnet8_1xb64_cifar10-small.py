# python tools/train.py configs/eekd/even_resnet20_1xb64_cifar10-small.py
# python tools/train.py configs/eekd/checkpointkd_resnet20_resnet8_1xb64_cifar10-small.py
_base_ = ['../_base_/models/cifar10-small_distill.py']

_even = 'work_dirs/even_resnet20_1xb64_cifar10-small/even'
model = dict(
    architecture=dict(head=dict(loss=dict(loss_weight=0.5))),
    teacher_ckpt=[f'{_even}/epoch_{n}.pth' for n in (18, 30)],
    distiller=dict(
        teacher_recorders=dict(
            logits=dict(_delete_=True, type='kd_plugins.EveryCheckpoint', source='head.fc')
        ),
        distill_losses=dict(
            loss_kd=dict(
                type='kd_plugins.EEKDLoss', mode='equal', mix='logits', tau=5.0, loss_weight=0.5
            ),
        ),
    ),
)
