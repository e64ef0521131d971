# DeiT's training as VkD published it, for 512 pictures a step: none of them repeated, other
# colours instead of RandAugment and erasing, no warm-up, and no average of the weights.
_base_ = ['deit_300e_in1k.py']

train_dataloader = dict(
    batch_size=64,
    sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True),
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='RandomResizedCrop', scale=224, backend='pillow', interpolation='bicubic'),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(
                type='RandomChoice',
                transforms=[
                    [
                        dict(
                            type='RandomGrayscale',
                            prob=1.0,
                            keep_channels=True,
                            channel_weights=(0.114, 0.587, 0.299),
                        )
                    ],
                    [dict(type='Solarize', thr=128, prob=1.0)],
                    [
                        dict(
                            type='GaussianBlur',
                            magnitude_range=(0.1, 2.0),
                            magnitude_std='inf',
                            prob=1.0,
                        )
                    ],
                ],
            ),
            dict(type='ColorJitter', brightness=0.3, contrast=0.3, saturation=0.3),
            dict(type='PackInputs'),
        ]
    ),
)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = [dict(type='CosineAnnealingLR', eta_min=5e-6, by_epoch=True)]
custom_hooks = [dict(type='kd_plugins.SeedByProgressHook')]
auto_scale_lr = dict(base_batch_size=512)
