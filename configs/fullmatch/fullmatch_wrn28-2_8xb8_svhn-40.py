# bash tools/dist_train.sh configs/fullmatch/fullmatch_wrn28-2_8xb8_svhn-40.py 8
_base_ = ['fixmatch_wrn28-2_8xb8_svhn-40.py', '../_base_/distill/fullmatch.py']

model = dict(distiller=_base_.fullmatch)
del _base_.fullmatch
