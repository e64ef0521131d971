# KD on CIFAR-100; a leaf adds the student, the teacher and its checkpoint.
_base_ = [
    '../datasets/cifar100_bs64.py',
    '../schedules/cifar100_bs64_240e.py',
    '../small_pictures_runtime.py',
    '../distill/logits.py',
]

model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=dict(head=dict(loss=dict(loss_weight=0.1))),
    distiller=dict(
        distill_losses=dict(loss_kd=dict(type='kd_plugins.KDLoss', tau=4.0, loss_weight=0.9)),
        **_base_.distiller,
    ),
)
