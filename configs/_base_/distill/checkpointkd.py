# CheckpointKD with the published weights: half on the labels, half on the mean logits of
# the teacher's checkpoints.
_base_ = ['logits.py']

model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=dict(head=dict(loss=dict(loss_weight=0.5))),
    distiller=dict(
        distill_losses=dict(
            loss_kd=dict(
                type='kd_plugins.EEKDLoss', mode='equal', mix='logits', tau=5.0, loss_weight=0.5
            ),
        ),
        **_base_.distiller,
    ),
)
model['distiller']['teacher_recorders'] = dict(
    logits=dict(type='kd_plugins.EveryCheckpoint', source='head.fc')
)
