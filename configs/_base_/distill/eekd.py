# What EEKD reads beside KD: the classifier of every checkpoint of the teacher, and what goes
# into it. A leaf puts eekd into its distiller and deletes it.
eekd = dict(
    student_recorders=dict(features=dict(type='ModuleInputs', source='head.fc')),
    teacher_recorders=dict(
        logits=dict(_delete_=True, type='kd_plugins.EveryCheckpoint', source='head.fc'),
        features=dict(type='kd_plugins.EveryCheckpoint', source='head.fc', of='inputs'),
    ),
    loss_forward_mappings=dict(
        loss_kd=dict(
            features_S=dict(recorder='features', from_student=True, data_idx=0),
            features_T=dict(recorder='features', from_student=False),
        ),
    ),
)
