# The 5,000 photographs of cifar10-small.py, few of them labelled.
_base_ = ['fixmatch_cifar10.py']

data_preprocessor = dict(
    mean=[125.307, 122.961, 113.8575], std=[51.5865, 50.847, 51.255], to_rgb=True
)
_files = dict(
    _delete_=True, type='CustomDataset', data_prefix='data/cifar10-small/train', with_label=True
)
_load = [dict(type='kd_plugins.LoadImageFromFile')]
_of = _base_.train_dataloader.dataset
train_dataloader = dict(
    num_workers=0,
    dataset=dict(
        labelled=dict(_files, pipeline=[*_load, *_of.labelled.pipeline]),
        unlabelled=dict(_files, pipeline=[*_load, *_of.unlabelled.pipeline]),
    ),
)
val_dataloader = dict(
    num_workers=0,
    dataset=dict(
        _files,
        data_prefix='data/cifar10-small/val',
        pipeline=[*_load, *_base_.val_dataloader.dataset.pipeline],
    ),
)
# Upstream's inferencers look for upstream's loader by its name.
_read = [dict(type='LoadImageFromFile'), *_base_.val_dataloader.dataset.pipeline]
test_dataloader = dict(val_dataloader, dataset=dict(val_dataloader['dataset'], pipeline=_read))
