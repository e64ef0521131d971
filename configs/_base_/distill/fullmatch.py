# What FullMatch adds to FixMatch: terms on all unlabelled pictures, and on all candidates.
_pseudo = dict(recorder='views', from_student=True, connector='pseudo_labels')
_strong = dict(recorder='strong', from_student=True)
model = dict(
    distiller=dict(
        distill_losses=dict(
            loss_anl=dict(type='kd_plugins.ANLLoss'), loss_eml=dict(type='kd_plugins.EMLLoss')
        ),
        loss_forward_mappings=dict(
            loss_anl=dict(preds_S=_strong, pseudo=_pseudo),
            loss_eml=dict(preds_S=_strong, pseudo=_pseudo),
        ),
    ),
)
