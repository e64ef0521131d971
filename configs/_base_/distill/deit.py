# What DeiT reads: the distillation token's logits and the teacher's.
distiller = dict(
    type='mmrazor.ConfigurableDistiller',
    student_recorders=dict(token=dict(type='ModuleOutputs', source='head.layers.head_dist')),
    teacher_recorders=dict(logits=dict(type='ModuleOutputs', source='head.fc')),
    loss_forward_mappings=dict(
        loss_deit=dict(
            preds_S=dict(recorder='token', from_student=True),
            preds_T=dict(recorder='logits', from_student=False),
        ),
    ),
)
