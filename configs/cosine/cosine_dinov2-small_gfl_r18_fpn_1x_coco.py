# bash tools/dist_train.sh configs/cosine/cosine_dinov2-small_gfl_r18_fpn_1x_coco.py 8 --amp
_base_ = [
    'mmdet::gfl/gfl_r50_fpn_1x_coco.py',
    '../_base_/distill/cosine.py',
    '../_base_/detection_runtime.py',
]
default_hooks = _base_.safe_hooks

_c4 = dict(type='kd_plugins.Features', sources=[dict(output_of='backbone', items=[2])])
model = dict(
    _delete_=True,
    type='kd_plugins.SingleTeacherDistill',
    architecture=dict(
        cfg_path='mmdet::gfl/gfl_r50_fpn_1x_coco.py',
        backbone=dict(
            depth=18, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')
        ),
        neck=dict(in_channels=[64, 128, 256, 512]),
    ),
    teacher=dict(
        cfg_path='mmpretrain::dinov2/vit-small-p14_dinov2-pre_headless.py',
        pretrained=True,
        backbone=dict(out_type='featmap'),
    ),
    # A patch of 14 pixels for every 16 of the student: the maps have the same positions.
    teacher_input_size=dict(scale=0.875),
    distiller=dict(
        _base_.distiller,
        student_recorders=dict(maps=_c4),
        connectors=dict(
            projector=dict(type='kd_plugins.MapsConnector', in_channels=[256], out_channels=[384])
        ),
        distill_losses=dict(loss_cosine=dict(type='kd_plugins.CosineLoss', loss_weight=5.0)),
    ),
)
