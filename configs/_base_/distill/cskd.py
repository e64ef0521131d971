# What CSKD reads beside DeiT: the logits of both networks at every position.
_base_ = ['deit.py']

distiller = dict(
    student_recorders=dict(dense=dict(type='kd_plugins.DenseLogits')),
    teacher_recorders=dict(dense=dict(type='kd_plugins.DenseLogits')),
    loss_forward_mappings=dict(
        loss_cskd=dict(
            preds_S=dict(recorder='dense', from_student=True),
            preds_T=dict(recorder='dense', from_student=False),
        ),
    ),
)
