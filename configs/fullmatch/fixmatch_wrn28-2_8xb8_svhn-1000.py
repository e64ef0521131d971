# bash tools/dist_train.sh configs/fullmatch/fixmatch_wrn28-2_8xb8_svhn-1000.py 8
_base_ = ['fixmatch_wrn28-2_8xb8_svhn-40.py']

train_dataloader = dict(dataset=dict(labels_per_class=100))
