# bash tools/dist_train.sh configs/mgd/mgd_retinanet_x101_r50_fpn_2x_coco.py 8
_base_ = [
    'mmdet::retinanet/retinanet_r50_fpn_2x_coco.py',
    '../_base_/distill/neck.py',
    '../_base_/detection_runtime.py',
]
default_hooks = _base_.safe_hooks

# The student starts from the teacher's neck and head, as published.
_x101 = 'https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_x101_64x4d_fpn_1x_coco'
_start = dict(
    type='Pretrained',
    checkpoint=f'{_x101}/retinanet_x101_64x4d_fpn_1x_coco_20200130-366f5af1.pth',
)
_student = _base_.model
_student.neck.init_cfg = dict(_start, prefix='neck.')
_student.bbox_head.init_cfg = dict(_start, prefix='bbox_head.')
_mgd = dict(
    type='kd_plugins.MGDLoss',
    channels_S=[256] * 5,
    channels_T=[256] * 5,
    loss_weight=2e-5,
    mask_ratio=0.65,
)

model = dict(
    _delete_=True,
    type='kd_plugins.SingleTeacherDistill',
    architecture=_student,
    teacher=dict(cfg_path='mmdet::retinanet/retinanet_x101-64x4d_fpn_1x_coco.py', pretrained=True),
    distiller=dict(
        _base_.distiller,
        distill_losses=dict(loss_mgd=_mgd),
        loss_forward_mappings=dict(loss_mgd=_base_.levels),
    ),
)
del _base_.levels

optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
