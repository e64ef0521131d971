# OFA-KD with a branch on each of four stages of the student: all of them, and the student's own
# logits, are compared with the teacher's. A leaf names the stages and builds the branches.
_logits = dict(recorder='logits', from_student=False)
_labels = dict(recorder='labels', from_student=True, data_idx=1)
distiller = dict(
    type='mmrazor.ConfigurableDistiller',
    student_recorders=dict(
        logits=dict(type='ModuleOutputs', source='head.fc'),
        labels=dict(type='ModuleInputs', source='head.loss_module'),
    ),
    teacher_recorders=dict(logits=dict(type='ModuleOutputs', source='head.fc')),
    distill_losses={f'loss_ofa{i}': dict(type='kd_plugins.OFALoss', eps=1.0) for i in range(5)},
    loss_forward_mappings={
        f'loss_ofa{i}': dict(
            # 0 is the student's own answer.
            preds_S=dict(recorder=f'stage{i}', from_student=True, connector=f'branch{i}')
            if i
            else dict(recorder='logits', from_student=True),
            preds_T=_logits,
            gt_labels=_labels,
        )
        for i in range(5)
    },
)
del _logits, _labels
