# bash tools/dist_train.sh configs/dkd/dkd_faster-rcnn_r101_r18_fpn_180k_coco.py 4
_base_ = [
    '../vanilla/faster-rcnn_r18_fpn_180k_coco.py',
    '../_base_/models/faster-rcnn_teachers_coco.py',
    '../_base_/distill/dkd_rois.py',
]

model = dict(
    _delete_=True,
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.model,
    teacher=_base_.teachers.r101,
    distiller=_base_.distiller,
)
del _base_.teachers
