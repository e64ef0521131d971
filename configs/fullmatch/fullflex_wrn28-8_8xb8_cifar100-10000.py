# bash tools/dist_train.sh configs/fullmatch/fullflex_wrn28-8_8xb8_cifar100-10000.py 8
_base_ = ['fullflex_wrn28-8_8xb8_cifar100-400.py']

train_dataloader = dict(dataset=dict(labels_per_class=100))
sync_bn = None
