# bash tools/dist_train.sh configs/zipf/zipf_resnet50_4xb64_inat21.py 4
_base_ = [
    'mmpretrain::_base_/models/resnet50.py',
    '../_base_/datasets/inat21_bs64.py',
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
        distill_losses=dict(loss_zipf=dict(type='kd_plugins.ZipfLoss', loss_weight=1.0)),
        **_base_.distiller,
    ),
)
# Starts as torchvision's does, as published.
model['architecture']['backbone']['zero_init_residual'] = False
model['architecture']['head']['init_cfg'] = None
model['architecture']['head']['num_classes'] = 10000
