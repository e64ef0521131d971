# bash tools/dist_train.sh configs/zipf/zipf_resnet50_4xb64_in1k.py 4
_base_ = [
    'mmpretrain::_base_/models/resnet50.py',
    'mmpretrain::_base_/datasets/imagenet_bs64.py',
    '../_base_/schedules/imagenet_bs256_100e.py',
    '../_base_/default_runtime.py',
    '../_base_/distill/zipf.py',
]

model = dict(
    _delete_=True,
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.model,
    teacher=None,
    distiller=dict(
        distill_losses=dict(loss_zipf=dict(type='kd_plugins.ZipfLoss', loss_weight=0.1)),
        **_base_.distiller,
    ),
)
# Starts as torchvision's does, as published.
model['architecture']['backbone']['zero_init_residual'] = False
model['architecture']['head']['init_cfg'] = None
