# The teacher's head continues after the third of four convolutions of the student's branches.
# For two GFLs, which compare distributions over the sides of boxes.
_head = dict(type='kd_plugins.DetectionHead')
_read = dict(
    preds_S=dict(recorder='cross', from_student=False),
    preds_T=dict(recorder='head', from_student=False),
    head_S=dict(recorder='head', from_student=True),
)
distiller = dict(
    type='mmrazor.ConfigurableDistiller',
    student_recorders=dict(head=_head, inside=dict(type='kd_plugins.HeadFeatures', after=3)),
    teacher_recorders=dict(head=_head, cross=dict(type='kd_plugins.CrossHead', question='inside')),
    distill_losses=dict(
        loss_crosskd_cls=dict(type='kd_plugins.CrossKDClassificationLoss', loss_weight=1.0),
        loss_crosskd_loc=dict(type='kd_plugins.CrossKDLocalizationLoss', loss_weight=4.0),
    ),
    loss_forward_mappings=dict(loss_crosskd_cls=_read, loss_crosskd_loc=_read),
)
del _head, _read
