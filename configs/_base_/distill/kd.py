# KD with the weights of the papers for small pictures: 0.9 on the teacher, 0.1 on the
# labels.
_base_ = ['logits.py']

model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=dict(head=dict(loss=dict(loss_weight=0.1))),
    distiller=dict(
        distill_losses=dict(loss_kd=dict(type='kd_plugins.KDLoss', tau=4.0, loss_weight=0.9)),
        **_base_.distiller,
    ),
)
