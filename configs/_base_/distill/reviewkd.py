# What ReviewKD reads of two FPNs of five levels of 256 channels, and what it learns.
# A leaf takes _base_.reviewkd and changes sources, channels and the weight.
reviewkd = dict(
    student_recorders=dict(levels=dict(type='kd_plugins.Features', sources=['neck'])),
    teacher_recorders=dict(levels=dict(type='kd_plugins.Features', sources=['neck'])),
    connectors=dict(
        fusion=dict(type='kd_plugins.ReviewKDConnector', in_channels=[256] * 5, mid_channels=256),
    ),
    distill_losses=dict(loss_reviewkd=dict(type='kd_plugins.ReviewKDLoss', loss_weight=1.0)),
    loss_forward_mappings=dict(
        loss_reviewkd=dict(
            preds_S=dict(recorder='levels', from_student=True, connector='fusion'),
            preds_T=dict(recorder='levels', from_student=False),
        ),
    ),
)
