# DeiT's training as CSKD published it, for 1024 pictures a step: lr 1e-3. What is
# evaluated and saved is the moving average of the weights.
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py',
    '../default_runtime.py',
]

# Every picture three times in a row, on different GPUs, of a third of the pictures.
train_dataloader = dict(batch_size=128, sampler=dict(type='RepeatAugSampler', num_repeats=3))
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            '.cls_token': dict(decay_mult=0.0),
            '.dist_token': dict(decay_mult=0.0),
            '.pos_embed': dict(decay_mult=0.0),
        },
    ),
)
param_scheduler = [
    # From 1e-6.
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=295, eta_min=1e-5, by_epoch=True, begin=5, end=300),
]
custom_hooks = [
    dict(type='kd_plugins.SeedByProgressHook'),
    dict(type='EMAHook', momentum=4e-5, priority='ABOVE_NORMAL'),
]
