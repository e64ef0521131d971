# What the terms on maps read: all levels of both FPNs. A leaf maps its terms to them and
# deletes levels.
distiller = dict(
    type='mmrazor.ConfigurableDistiller',
    student_recorders=dict(neck=dict(type='kd_plugins.Features')),
    teacher_recorders=dict(neck=dict(type='kd_plugins.Features')),
)
levels = dict(
    preds_S=dict(recorder='neck', from_student=True),
    preds_T=dict(recorder='neck', from_student=False),
)
