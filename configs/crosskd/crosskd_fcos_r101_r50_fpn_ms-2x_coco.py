# bash tools/dist_train.sh configs/crosskd/crosskd_fcos_r101_r50_fpn_ms-2x_coco.py 8
_base_ = [
    'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_ms-640-800-2x_coco.py',
    '../_base_/distill/crosskd.py',
    '../_base_/detection_runtime.py',
]
default_hooks = _base_.safe_hooks

model = dict(
    _delete_=True,
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.model,
    teacher=dict(
        cfg_path='mmdet::fcos/fcos_r101-caffe_fpn_gn-head_ms-640-800-2x_coco.py', pretrained=True
    ),
    distiller=dict(
        _base_.distiller,
        student_recorders=dict(
            _base_.distiller.student_recorders,
            inside=dict(type='kd_plugins.HeadFeatures', after=2),
        ),
        distill_losses=dict(
            loss_crosskd_cls=dict(type='kd_plugins.CrossKDClassificationLoss', loss_weight=0.4),
            loss_crosskd_loc=dict(
                type='kd_plugins.CrossKDLocalizationLoss',
                loss_iou=dict(type='mmdet.IoULoss'),
                loss_weight=0.75,
            ),
        ),
    ),
)
