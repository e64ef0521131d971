# iNaturalist 2021: class folders in data/inat21/{train_mini,val}, as they are published.
_base_ = ['mmpretrain::_base_/datasets/imagenet_bs64.py']

data_preprocessor = dict(num_classes=10000)
_folders = dict(_delete_=True, type='CustomDataset', data_root='data/inat21')
_train = dict(data_prefix='train_mini', pipeline=_base_.train_pipeline)
_val = dict(data_prefix='val', pipeline=_base_.test_pipeline)
train_dataloader = dict(dataset=dict(_train, **_folders))
val_dataloader = dict(dataset=dict(_val, **_folders))
test_dataloader = val_dataloader
