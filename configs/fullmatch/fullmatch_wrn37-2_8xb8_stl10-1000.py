# bash tools/dist_train.sh configs/fullmatch/fullmatch_wrn37-2_8xb8_stl10-1000.py 8
_base_ = ['fullmatch_wrn37-2_8xb8_stl10-40.py']

train_dataloader = dict(dataset=dict(labels_per_class=100))
