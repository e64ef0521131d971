# The 200 labelled scans of digits.py, and all 1,078 without labels beside them.
_base_ = ['digits.py']

data_preprocessor = dict(type='kd_plugins.ClsDataPreprocessor')
_strong = [
    dict(type='RandomCrop', crop_size=8, padding=1),
    dict(type='Rotate', magnitude_range=(0, 30), magnitude_std='inf', pad_val=0, prob=0.5),
    dict(type='Cutout', shape=4, pad_val=0, prob=1.0),
]
train_dataloader = dict(
    batch_size=64,
    dataset=dict(
        _delete_=True,
        type='kd_plugins.WithUnlabelled',
        labelled=_base_.train_dataloader.dataset,
        unlabelled=dict(
            type='kd_plugins.Digits',
            split='train',
            pipeline=[
                dict(type='kd_plugins.StrongView', transforms=_strong),
                dict(type='RandomCrop', crop_size=8, padding=1),
                dict(type='PackInputs', algorithm_keys=['strong_view']),
            ],
        ),
    ),
    sampler=dict(
        _delete_=True, type='kd_plugins.MultiSourceSampler', batch_size=64, source_ratio=[1, 3]
    ),
)
