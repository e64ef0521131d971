# ImageNet with 100 labels a class, 4 labelled and 28 unlabelled pictures for each of 8
# processes: 256 x 256 pixels, of which 224 x 224 are cut.
_base_ = ['fixmatch_cifar10.py']

data_preprocessor = dict(
    num_classes=1000, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
)
_files = dict(_delete_=True, type='ImageNet', data_root='data/imagenet', split='train')
_load = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(256, 256))]
_flip, _crop = _base_._weak[0], dict(_base_._weak[1], crop_size=224)
_strong = [_flip, _crop, _base_._strong[2], dict(_base_._strong[3], shape=112)]
train_dataloader = dict(
    batch_size=32,
    num_workers=8,
    dataset=dict(
        labels_per_class=100,
        labelled=dict(_files, pipeline=[*_load, _flip, _crop, dict(type='PackInputs')]),
        unlabelled=dict(
            _files,
            pipeline=[
                *_load,
                dict(type='kd_plugins.StrongView', transforms=_strong),
                _flip,
                _crop,
                dict(type='PackInputs', algorithm_keys=['strong_view']),
            ],
        ),
    ),
    sampler=dict(batch_size=32),
)
val_dataloader = dict(
    dataset=dict(
        _files,
        split='val',
        pipeline=[
            _load[0], dict(type='Resize', scale=(224, 224)), dict(type='PackInputs'),
        ],
    ),
)  # fmt: skip
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1, 5))
test_evaluator = val_evaluator
