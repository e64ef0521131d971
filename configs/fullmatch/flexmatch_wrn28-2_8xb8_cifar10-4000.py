# bash tools/dist_train.sh configs/fullmatch/flexmatch_wrn28-2_8xb8_cifar10-4000.py 8
_base_ = ['flexmatch_wrn28-2_8xb8_cifar10-40.py']

train_dataloader = dict(dataset=dict(labels_per_class=400))
