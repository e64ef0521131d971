# What Zipf's label smoothing reads: the network's own logits, those at every position of
# its last feature map, and the labels. There is no teacher.
distiller = dict(
    type='mmrazor.ConfigurableDistiller',
    student_recorders=dict(
        logits=dict(type='ModuleOutputs', source='head.fc'),
        labels=dict(type='ModuleInputs', source='head.loss_module'),
        dense=dict(type='kd_plugins.DenseLogits'),
    ),
    loss_forward_mappings=dict(
        loss_zipf=dict(
            preds_S=dict(recorder='logits', from_student=True),
            dense_S=dict(recorder='dense', from_student=True),
            gt_labels=dict(recorder='labels', from_student=True, data_idx=1),
        ),
    ),
)
