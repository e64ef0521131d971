# bash tools/dist_train.sh configs/recursive_mix/recursive-mix_resnet50_8xb64_in1k.py 8 --amp
_base_ = [
    'mmpretrain::_base_/models/resnet50.py',
    '../_base_/datasets/imagenet_bs64_jitter.py',
    '../_base_/schedules/imagenet_bs512_300e.py',
    '../_base_/default_runtime.py',
    '../_base_/distill/recursive_mix.py',
]

model = dict(
    _delete_=True,
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.model,
    teacher=None,
    batch_parts=[dict(type='kd_plugins.RecursiveMix', alpha=0.5)],
    distiller=dict(
        distill_losses=dict(
            loss_rm=dict(
                type='kd_plugins.RecursiveMixLoss',
                loss_weight=0.5,
                channels=2048,
                num_classes=1000,
            ),
        ),
        **_base_.distiller,
    ),
)
# Starts as torchvision's does, as published.
model['architecture']['backbone']['zero_init_residual'] = False
model['architecture']['head']['init_cfg'] = None
