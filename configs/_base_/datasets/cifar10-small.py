# 500 training and 100 validation pictures of each of CIFAR-10's classes, or any
# others of 32 x 32 pixels in ten folders:
#   data/cifar10-small/{train,val}/CLASS/*.jpg
data_preprocessor = dict(
    num_classes=10,
    mean=[125.307, 122.961, 113.8575],
    std=[51.5865, 50.847, 51.255],
    to_rgb=True,
)

train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        type='CustomDataset',
        data_prefix='data/cifar10-small/train',
        pipeline=[
            dict(type='kd_plugins.LoadImageFromFile'),
            dict(type='RandomCrop', crop_size=32, padding=4),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ],
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        type='CustomDataset',
        data_prefix='data/cifar10-small/val',
        pipeline=[dict(type='kd_plugins.LoadImageFromFile'), dict(type='PackInputs')],
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
# Upstream's inferencers look for upstream's loader by its name.
_read = [dict(type='LoadImageFromFile'), *val_dataloader['dataset']['pipeline'][1:]]
test_dataloader = dict(val_dataloader, dataset=dict(val_dataloader['dataset'], pipeline=_read))
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator
