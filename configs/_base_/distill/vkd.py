# What VkD reads: the student's tokens behind its last norm and the teacher's pooled map, and
# the logits of the distillation token and of the teacher.
distiller = dict(
    type='mmrazor.ConfigurableDistiller',
    student_recorders=dict(
        tokens=dict(type='ModuleOutputs', source='backbone.ln1'),
        token=dict(type='ModuleOutputs', source='head.layers.head_dist'),
    ),
    teacher_recorders=dict(
        pooled=dict(type='ModuleInputs', source='head.fc'),
        logits=dict(type='ModuleOutputs', source='head.fc'),
    ),
    loss_forward_mappings=dict(
        loss_vkd=dict(
            preds_S=dict(recorder='tokens', from_student=True),
            preds_T=dict(recorder='pooled', from_student=False, data_idx=0),
        ),
        loss_kd=dict(
            preds_S=dict(recorder='token', from_student=True),
            preds_T=dict(recorder='logits', from_student=False),
        ),
    ),
)
