# bash tools/dist_train.sh configs/cwd/cwd_rtmdet_s_tiny_8xb32-300e_coco.py 8
_base_ = [
    'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    '../_base_/distill/rtmdet_cwd.py',
]
custom_imports = dict(imports=['kd_plugins'], allow_failed_imports=False)
default_hooks = dict(
    checkpoint=dict(type='kd_plugins.SafeCheckpointHook'),
    guard=dict(type='kd_plugins.DistillationGuardHook', action='stop'),
    environment=dict(type='kd_plugins.EnvironmentHook'),
    distillation_log=dict(type='kd_plugins.DistillationLogHook'),
)
custom_hooks = [*_base_.custom_hooks, *_base_.more_hooks]
randomness = dict(seed=0)

model = dict(
    _delete_=True,
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.model,
    teacher=dict(cfg_path='mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py', pretrained=True),
    distiller=dict(
        _base_.distiller,
        connectors=dict(
            projector=dict(
                type='kd_plugins.MapsConnector',
                in_channels=[96] * 3,
                out_channels=[128] * 3,
            )
        ),
    ),
)
del _base_.more_hooks
