# bash tools/dist_train.sh configs/fullmatch/fixmatch_wrn37-2_8xb8_stl10-40.py 8
_base_ = [
    '../_base_/datasets/fixmatch_stl10.py',
    '../_base_/schedules/fixmatch_1m.py',
    '../_base_/fixmatch_runtime.py',
    '../_base_/distill/fixmatch.py',
    '../_base_/models/fixmatch.py',
]

model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.networks.stl10,
    teacher=None,
    distiller=_base_.distiller,
)
del _base_.networks
