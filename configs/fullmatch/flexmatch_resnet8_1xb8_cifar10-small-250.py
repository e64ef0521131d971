# python tools/train.py configs/fullmatch/flexmatch_resnet8_1xb8_cifar10-small-250.py
_base_ = ['flexmatch_resnet8_1xb8_cifar10-small-40.py']

train_dataloader = dict(dataset=dict(labels_per_class=25))
