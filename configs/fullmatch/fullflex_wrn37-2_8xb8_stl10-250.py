# bash tools/dist_train.sh configs/fullmatch/fullflex_wrn37-2_8xb8_stl10-250.py 8
_base_ = ['fullflex_wrn37-2_8xb8_stl10-40.py']

train_dataloader = dict(dataset=dict(labels_per_class=25))
