# STL-10 with few labels, 96 pixels; the unlabelled dataset is unlabeled and train, 105,000
# pictures. Files: data/stl10/stl10_binary, which torchvision fetches.
_base_ = ['fixmatch_cifar10.py']

data_preprocessor = dict(mean=[112.4, 109.1, 98.6], std=[68.4, 66.6, 68.5])
_files = dict(_delete_=True, type='kd_plugins.STL10', data_root='data/stl10', splits=['train'])
_flip, _crop = _base_._weak[0], dict(_base_._weak[1], crop_size=96)
_strong = [_flip, _crop, _base_._strong[2], dict(_base_._strong[3], shape=48)]
train_dataloader = dict(
    dataset=dict(
        labelled=dict(_files, pipeline=[_flip, _crop, dict(type='PackInputs')]),
        unlabelled=dict(
            _files,
            splits=['unlabeled', 'train'],
            pipeline=[
                dict(type='kd_plugins.StrongView', transforms=_strong),
                _flip,
                _crop,
                dict(type='PackInputs', algorithm_keys=['strong_view']),
            ],
        ),
    ),
)
val_dataloader = dict(
    dataset=dict(_files, splits=['test'], pipeline=_base_.val_dataloader.dataset.pipeline)
)
test_dataloader = val_dataloader
