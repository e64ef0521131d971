# What RecursiveMix reads: the network's logits, its last feature map, and what was pasted
# into the batch. There is no teacher.
distiller = dict(
    type='mmrazor.ConfigurableDistiller',
    student_recorders=dict(
        logits=dict(type='ModuleOutputs', source='head.fc'),
        maps=dict(type='ModuleOutputs', source='backbone'),
        pasted=dict(type='kd_plugins.BatchPart', source='RecursiveMix'),
    ),
    loss_forward_mappings=dict(
        loss_rm=dict(
            feature_map=dict(recorder='maps', from_student=True),
            pasted=dict(recorder='pasted', from_student=True),
        ),
    ),
)
