# A loop of iterations, evaluated every 1,024 with an average of the weights that begins with
# the start of the training, as published.
_base_ = ['default_runtime.py']

custom_hooks = [
    dict(type='kd_plugins.SeedByProgressHook'),
    dict(
        type='EMAHook',
        ema_type='kd_plugins.ExponentialMovingAverage',
        momentum=0.001,
        from_start=True,
    ),
]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=1024))
log_processor = dict(by_epoch=False)
