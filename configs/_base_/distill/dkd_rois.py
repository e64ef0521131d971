# DKD as published for two-stage detectors: the teacher's box head classifies the very
# RoIs that the student's own loss is computed on. As many stages on both sides.
distiller = dict(
    type='mmrazor.ConfigurableDistiller',
    student_recorders=dict(rois=dict(type='kd_plugins.RoIHead')),
    teacher_recorders=dict(rois=dict(type='kd_plugins.RoIHead', question='rois')),
    distill_losses=dict(
        loss_dkd=dict(
            type='kd_plugins.RoILoss',
            loss=dict(type='kd_plugins.DKDLoss', tau=1.0, alpha=1.0, beta=0.25, loss_weight=1.0),
        ),
    ),
    loss_forward_mappings=dict(
        loss_dkd=dict(
            preds_S=dict(recorder='rois', from_student=True),
            preds_T=dict(recorder='rois', from_student=False),
        ),
    ),
)
