# DM-KD: the teacher's answer alone, at tau 10. No label reaches a loss.
_base_ = ['logits.py']

model = dict(
    type='kd_plugins.SingleTeacherDistill',
    calculate_student_loss=False,
    distiller=dict(
        distill_losses=dict(loss_kd=dict(type='kd_plugins.KDLoss', tau=10.0)),
        **_base_.distiller,
    ),
)
