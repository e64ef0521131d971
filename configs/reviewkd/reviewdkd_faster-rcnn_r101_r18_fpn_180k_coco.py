# bash tools/dist_train.sh configs/reviewkd/reviewdkd_faster-rcnn_r101_r18_fpn_180k_coco.py 4
_base_ = ['../dkd/dkd_faster-rcnn_r101_r18_fpn_180k_coco.py', '../_base_/distill/reviewkd.py']

model = dict(
    distiller=dict(
        _base_.reviewkd,
        distill_losses=dict(
            loss_reviewkd=dict(type='kd_plugins.ReviewKDLoss', loss_weight=1.2),
        ),
    ),
)
del _base_.reviewkd
