# What CTC reads: what goes into the classifier of the student and of its snapshot, and the
# samples, which say their place in the training set.
model = dict(
    type='kd_plugins.SingleTeacherDistill',
    teacher='snapshot',
    distiller=dict(
        type='mmrazor.ConfigurableDistiller',
        student_recorders=dict(
            features=dict(type='ModuleInputs', source='head.fc'),
            inputs=dict(type='ModuleInputs', source=''),
        ),
        teacher_recorders=dict(features=dict(type='kd_plugins.Snapshot', source='head.fc')),
        loss_forward_mappings=dict(
            loss_ctc=dict(
                features_S=dict(recorder='features', from_student=True, data_idx=0),
                data_samples=dict(recorder='inputs', from_student=True, data_idx=1),
                features_T=dict(recorder='features', from_student=False),
            ),
        ),
    ),
)
