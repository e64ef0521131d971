# bash tools/dist_train.sh configs/fullmatch/fullflex_wrn28-2_8xb8_svhn-1000.py 8
_base_ = ['fullflex_wrn28-2_8xb8_svhn-40.py']

train_dataloader = dict(dataset=dict(labels_per_class=100))
