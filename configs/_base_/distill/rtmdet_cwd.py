# mmyolo's distillation of RTMDet by the next larger one: CWD on the outputs of the last
# convolutions of the necks, before their norms, brought to one scale; until epoch 280 of 300,
# when the pipeline changes. A leaf adds connectors=dict(projector=...), takes the
# hooks, and deletes more_hooks.
_maps = dict(
    type='kd_plugins.Features', sources=[f'neck.out_convs.{level}.conv' for level in range(3)]
)
distiller = dict(
    type='mmrazor.ConfigurableDistiller',
    student_recorders=dict(maps=_maps),
    teacher_recorders=dict(maps=_maps),
    distill_losses=dict(
        loss_cwd=dict(type='kd_plugins.CWDLoss', tau=1.0, loss_weight=1.0, normed=True)
    ),
    loss_forward_mappings=dict(
        loss_cwd=dict(
            preds_S=dict(recorder='maps', from_student=True, connector='projector'),
            preds_T=dict(recorder='maps', from_student=False),
        ),
    ),
)
del _maps

more_hooks = [
    dict(type='kd_plugins.SeedByProgressHook'),
    dict(type='mmrazor.StopDistillHook', stop_epoch=280),
]
