# CrossKD for heads that predict boxes, not distributions: RetinaNet, ATSS.
_base_ = ['crosskd.py']

distiller = dict(
    distill_losses=dict(
        loss_crosskd_loc=dict(loss_iou=dict(type='mmdet.GIoULoss'), loss_weight=1.0)
    )
)
