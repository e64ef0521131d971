# bash tools/dist_train.sh configs/cosine/cosine_dinov2-small_resnet18_8xb64_in1k.py 8 --amp
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64.py',
    '../_base_/schedules/imagenet_bs512_100e.py',
    '../_base_/default_runtime.py',
    '../_base_/distill/cosine.py',
    '../_base_/models/resnets_in1k.py',
]

model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.students.resnet18,
    # The patches of the last layer as a map, 16 x 16 of pictures of 224 pixels.
    teacher=dict(
        cfg_path='mmpretrain::dinov2/vit-small-p14_dinov2-pre_headless.py',
        backbone=dict(out_type='featmap'),
    ),
    teacher_ckpt='https://download.openmmlab.com/mmpretrain/v1.0/'
    'dinov2/vit-small-p14_dinov2-pre_3rdparty_20230426-5641ca5a.pth',
    distiller=dict(
        _base_.distiller,
        connectors=dict(
            projector=dict(type='kd_plugins.MapsConnector', in_channels=[512], out_channels=[384])
        ),
        distill_losses=dict(
            loss_cosine=dict(type='kd_plugins.CosineLoss', loss_weight=1.0, resize='coarser')
        ),
    ),
)
del _base_.teachers, _base_.students
