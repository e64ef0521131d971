# SVHN with few labels, as CIFAR-10's; the unlabelled dataset is train and extra, 604,388
# pictures. Files: data/svhn/*.mat, which torchvision fetches.
_base_ = ['fixmatch_cifar10.py']

data_preprocessor = dict(
    # (0.4380, 0.4440, 0.4730) and (0.1751, 0.1771, 0.1744) of 255.
    mean=[111.69, 113.22, 120.615],
    std=[44.6505, 45.1605, 44.472],
)
_files = dict(
    _delete_=True, type='kd_plugins.SVHN', data_root='data/svhn', splits=['train', 'extra']
)
_of = _base_.train_dataloader.dataset
train_dataloader = dict(
    dataset=dict(
        labelled=dict(_files, pipeline=_of.labelled.pipeline),
        unlabelled=dict(_files, pipeline=_of.unlabelled.pipeline),
    ),
)
val_dataloader = dict(
    dataset=dict(_files, splits=['test'], pipeline=_base_.val_dataloader.dataset.pipeline)
)
test_dataloader = val_dataloader
