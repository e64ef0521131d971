# What FullMatch adds to FixMatch: terms on all unlabelled pictures, and on all candidates.
_reads = dict(
    preds_S=dict(recorder='strong', from_student=True),
    pseudo=dict(recorder='views', from_student=True, connector='pseudo_labels'),
)
fullmatch = dict(
    distill_losses=dict(
        loss_anl=dict(type='kd_plugins.ANLLoss'), loss_eml=dict(type='kd_plugins.EMLLoss')
    ),
    loss_forward_mappings=dict(loss_anl=_reads, loss_eml=_reads),
)
