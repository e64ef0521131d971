# bash tools/dist_train.sh configs/reviewkd/reviewkd_faster-rcnn_r101_r50_fpn_180k_coco.py 4
_base_ = [
    '../vanilla/faster-rcnn_r50_fpn_180k_coco.py',
    '../_base_/models/faster-rcnn_teachers_coco.py',
    '../_base_/distill/reviewkd.py',
]

model = dict(
    _delete_=True,
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.model,
    teacher=_base_.teachers.r101,
    distiller=dict(
        _base_.reviewkd,
        distill_losses=dict(
            loss_reviewkd=dict(type='kd_plugins.ReviewKDLoss', loss_weight=1.0),
        ),
    ),
)
del _base_.teachers, _base_.reviewkd
