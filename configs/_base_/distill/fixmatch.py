# What FixMatch and its kin read: the logits of the labelled pictures and of both views of
# the others, and what the weak views say about the strong ones. There is no teacher.
distiller = dict(
    type='mmrazor.ConfigurableDistiller',
    student_recorders=dict(
        views=dict(type='kd_plugins.ViewLogits', source='head.fc'),
        strong=dict(type='kd_plugins.ViewLogits', source='head.fc', view='strong'),
    ),
    connectors=dict(pseudo_labels=dict(type='kd_plugins.PseudoLabels', cutoff=0.95)),
    distill_losses=dict(loss_fixmatch=dict(type='kd_plugins.FixMatchLoss')),
    loss_forward_mappings=dict(
        loss_fixmatch=dict(
            preds_S=dict(recorder='strong', from_student=True),
            pseudo=dict(recorder='views', from_student=True, connector='pseudo_labels'),
        ),
    ),
)
