# What mmdet's runtime lacks, so that a training loses nothing. A leaf beside an upstream
# config takes the hooks by: default_hooks = _base_.safe_hooks
custom_imports = dict(imports=['kd_plugins'], allow_failed_imports=False)

safe_hooks = dict(
    # A kill at any moment leaves a whole checkpoint to go on from.
    checkpoint=dict(type='kd_plugins.SafeCheckpointHook', interval=1),
    guard=dict(type='kd_plugins.DistillationGuardHook', action='stop'),
    environment=dict(type='kd_plugins.EnvironmentHook'),
    distillation_log=dict(type='kd_plugins.DistillationLogHook'),
)
custom_hooks = [dict(type='kd_plugins.SeedByProgressHook')]
randomness = dict(seed=0)
