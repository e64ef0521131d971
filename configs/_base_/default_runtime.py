default_scope = 'mmpretrain'
custom_imports = dict(imports=['kd_plugins'], allow_failed_imports=False)

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=100),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # A kill at any moment leaves a whole checkpoint to go on from.
    checkpoint=dict(
        type='kd_plugins.SafeCheckpointHook', interval=1, max_keep_ckpts=2, save_best='auto'
    ),
    guard=dict(type='kd_plugins.DistillationGuardHook', action='stop'),
    environment=dict(type='kd_plugins.EnvironmentHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='VisualizationHook', enable=False),
    distillation_log=dict(type='kd_plugins.DistillationLogHook'),
)
# With the seed below, a resumed run ends in the weights of an undisturbed one.
custom_hooks = [dict(type='kd_plugins.SeedByProgressHook')]
randomness = dict(seed=0)

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='UniversalVisualizer', vis_backends=vis_backends)
log_level = 'INFO'
load_from = None
resume = False
