# CIFAR-10 as RecursiveMix reads it, from data/cifar10/cifar-10-batches-py.
_base_ = ['cifar100_bs128.py']

data_preprocessor = dict(num_classes=10)
train_dataloader = dict(batch_size=32, dataset=dict(type='CIFAR10', data_root='data/cifar10'))
val_dataloader = dict(dataset=dict(type='CIFAR10', data_root='data/cifar10'))
test_dataloader = val_dataloader
