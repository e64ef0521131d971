# bash tools/dist_train.sh configs/fullmatch/flexmatch_wrn28-8_8xb8_cifar100-2500.py 8
_base_ = ['flexmatch_wrn28-8_8xb8_cifar100-400.py']

train_dataloader = dict(dataset=dict(labels_per_class=25))
sync_bn = None
