# KD on Tiny-ImageNet; a leaf adds the student, the teacher and its checkpoint.
_base_ = [
    '../datasets/tiny_imagenet_bs256.py',
    '../schedules/tiny_imagenet_bs256_200e.py',
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
