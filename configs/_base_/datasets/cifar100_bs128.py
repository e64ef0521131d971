# CIFAR-100 as Zipf's label smoothing and RecursiveMix read it.
_base_ = ['cifar100_bs64.py']

data_preprocessor = dict(
    # (0.4914, 0.4822, 0.4465) and (0.2023, 0.1994, 0.2010) of 255.
    mean=[125.307, 122.961, 113.8575],
    std=[51.5865, 50.847, 51.255],
)
train_dataloader = dict(batch_size=128)
