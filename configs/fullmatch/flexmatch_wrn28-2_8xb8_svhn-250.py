# bash tools/dist_train.sh configs/fullmatch/flexmatch_wrn28-2_8xb8_svhn-250.py 8
_base_ = ['flexmatch_wrn28-2_8xb8_svhn-40.py']

train_dataloader = dict(dataset=dict(labels_per_class=25))
