# What the methods on detection heads read: both heads' predictions, and the targets
# that the student's own losses compute.
distiller = dict(
    type='mmrazor.ConfigurableDistiller',
    student_recorders=dict(head=dict(type='kd_plugins.DetectionHead')),
    teacher_recorders=dict(head=dict(type='kd_plugins.DetectionHead')),
    distill_losses=dict(
        loss_bckd_cls=dict(type='kd_plugins.BCKDClassificationLoss', loss_weight=1.0),
        loss_bckd_loc=dict(
            type='kd_plugins.BCKDLocalizationLoss',
            loss_iou=dict(type='mmdet.GIoULoss'),
            loss_weight=4.0,
        ),
    ),
    loss_forward_mappings=dict(
        loss_bckd_cls=dict(
            preds_S=dict(recorder='head', from_student=True),
            preds_T=dict(recorder='head', from_student=False),
        ),
        loss_bckd_loc=dict(
            preds_S=dict(recorder='head', from_student=True),
            preds_T=dict(recorder='head', from_student=False),
        ),
    ),
)
