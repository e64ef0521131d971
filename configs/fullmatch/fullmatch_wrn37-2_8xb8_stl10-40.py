# bash tools/dist_train.sh configs/fullmatch/fullmatch_wrn37-2_8xb8_stl10-40.py 8
_base_ = ['fixmatch_wrn37-2_8xb8_stl10-40.py', '../_base_/distill/fullmatch.py']

model = dict(distiller=_base_.fullmatch)
del _base_.fullmatch
