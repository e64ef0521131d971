# bash tools/dist_train.sh configs/fullmatch/fixmatch_wrn28-2_8xb8_svhn-40.py 8
_base_ = [
    '../_base_/datasets/fixmatch_svhn.py',
    '../_base_/schedules/fixmatch_1m.py',
    '../_base_/fixmatch_runtime.py',
    '../_base_/distill/fixmatch.py',
    '../_base_/models/fixmatch.py',
]

model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.networks.svhn,
    teacher=None,
    distiller=_base_.distiller,
)
del _base_.networks
