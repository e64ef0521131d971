# iNaturalist 2021: class folders in data/inat21/{train_mini,val}, as they are published.
_base_ = ['mmpretrain::_base_/datasets/imagenet_bs64.py']

data_preprocessor = dict(num_classes=10000)
_folders = dict(type='CustomDataset', data_root='data/inat21', split='')
train_dataloader = dict(dataset=dict(data_prefix='train_mini', **_folders))
val_dataloader = dict(dataset=dict(data_prefix='val', **_folders))
test_dataloader = val_dataloader
