# Tiny-ImageNet as mdistiller reads it: class folders in
# data/tiny-imagenet-200/{train,val}. The official archive has the validation
# pictures in one folder; sort them by val_annotations.txt first.
data_preprocessor = dict(
    num_classes=200,
    # (0.4802, 0.4481, 0.3975) and (0.2302, 0.2265, 0.2262) of 255.
    mean=[122.451, 114.2655, 101.3625],
    std=[58.701, 57.7575, 57.681],
    to_rgb=True,
)

train_dataloader = dict(
    batch_size=256,
    num_workers=8,
    persistent_workers=False,
    worker_init_fn=dict(type='kd_plugins.seed_worker'),
    dataset=dict(
        type='CustomDataset',
        data_prefix='data/tiny-imagenet-200/train',
        pipeline=[
            dict(type='kd_plugins.LoadImageFromFile'),
            dict(type='NumpyToPIL'),
            dict(type='torchvision/RandomRotation', degrees=20),
            dict(type='PILToNumpy'),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ],
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=8,
    persistent_workers=False,
    dataset=dict(
        type='CustomDataset',
        data_prefix='data/tiny-imagenet-200/val',
        pipeline=[dict(type='kd_plugins.LoadImageFromFile'), dict(type='PackInputs')],
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
# Upstream's inferencers look for upstream's loader by its name.
_read = [dict(type='LoadImageFromFile'), *val_dataloader['dataset']['pipeline'][1:]]
test_dataloader = dict(val_dataloader, dataset=dict(val_dataloader['dataset'], pipeline=_read))
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
