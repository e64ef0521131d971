# bash tools/dist_train.sh configs/fullmatch/fullmatch_resnet50_8xb4_in1k-100k.py 8
_base_ = ['fixmatch_resnet50_8xb4_in1k-100k.py', '../_base_/distill/fullmatch.py']

model = dict(distiller=_base_.fullmatch)
del _base_.fullmatch
