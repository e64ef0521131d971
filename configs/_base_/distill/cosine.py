# What cosine reads: the last maps of both backbones. A leaf adds connectors=dict(projector=...)
# and distill_losses=dict(loss_cosine=...).
_maps = dict(recorder='maps', from_student=False)
distiller = dict(
    type='mmrazor.ConfigurableDistiller',
    student_recorders=dict(maps=dict(type='kd_plugins.Features', sources=['backbone'])),
    teacher_recorders=dict(maps=dict(type='kd_plugins.Features', sources=['backbone'])),
    loss_forward_mappings=dict(
        loss_cosine=dict(
            preds_S=dict(recorder='maps', from_student=True, connector='projector'),
            preds_T=_maps,
        ),
    ),
)
del _maps
