# CIFAR-100 with few labels, as CIFAR-10's. Files: data/cifar100/cifar-100-python.
_base_ = ['fixmatch_cifar10.py']

data_preprocessor = dict(num_classes=100, mean=[129.3, 124.1, 112.4], std=[68.2, 65.4, 70.4])
_files = dict(type='CIFAR100', data_root='data/cifar100')
train_dataloader = dict(dataset=dict(labelled=_files, unlabelled=_files))
val_dataloader = dict(dataset=_files)
test_dataloader = val_dataloader
