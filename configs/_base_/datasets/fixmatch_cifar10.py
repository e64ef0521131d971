# CIFAR-10 with few labels, 8 labelled and 56 unlabelled pictures for each of 8 processes. The
# unlabelled dataset is all of it. Files: data/cifar10/cifar-10-batches-py.
data_preprocessor = dict(
    type='kd_plugins.ClsDataPreprocessor',
    num_classes=10,
    mean=[125.3, 123.0, 113.9],
    std=[63.0, 62.1, 66.7],
    to_rgb=False,
)
_weak = [
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandomCrop', crop_size=32, padding=4),
]
# Two of fourteen operations, each done with a probability of 1/2 and of a random strength, and
# a grey square of half the side.
_operations = [
    dict(type='AutoContrast'),
    dict(type='Equalize'),
    dict(type='Posterize', magnitude_range=(3, 7)),  # rounded up
    dict(type='Solarize', magnitude_range=(0, 256)),
    dict(type='Rotate', magnitude_range=(0, 30), pad_val=0),
    # By up to 0.95 weaker.
    *(
        dict(type=name, magnitude_range=(0.05, 0.95), random_negative_prob=1.0)
        for name in ('Brightness', 'ColorTransform', 'Contrast', 'Sharpness')
    ),
    *(
        dict(type=name, magnitude_range=(0, 0.3), direction=direction, pad_val=0)
        for name in ('Shear', 'Translate')
        for direction in ('horizontal', 'vertical')
    ),
    # None.
    dict(type='AutoContrast', prob=0.0),
]
_strong = [
    *_weak,
    dict(
        type='RandAugment',
        policies=_operations,
        num_policies=2,
        magnitude_level=10,
        magnitude_std='inf',
    ),
    dict(type='Cutout', shape=16, pad_val=127, prob=1.0),
]

train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=False,
    worker_init_fn=dict(type='kd_plugins.seed_worker'),
    dataset=dict(
        type='kd_plugins.WithUnlabelled',
        labels_per_class=4,
        labels_seed=0,
        labelled=dict(
            type='CIFAR10',
            data_root='data/cifar10',
            split='train',
            pipeline=[*_weak, dict(type='PackInputs')],
        ),
        unlabelled=dict(
            type='CIFAR10',
            data_root='data/cifar10',
            split='train',
            pipeline=[
                dict(type='kd_plugins.StrongView', transforms=_strong),
                *_weak,
                dict(type='PackInputs', algorithm_keys=['strong_view']),
            ],
        ),
    ),
    sampler=dict(
        type='kd_plugins.MultiSourceSampler', batch_size=64, source_ratio=[1, 7], infinite=True
    ),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=2,
    persistent_workers=False,
    dataset=dict(
        type='CIFAR10',
        data_root='data/cifar10',
        split='test',
        pipeline=[dict(type='PackInputs')],
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator
