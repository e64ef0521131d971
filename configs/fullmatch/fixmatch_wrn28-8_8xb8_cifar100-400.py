# bash tools/dist_train.sh configs/fullmatch/fixmatch_wrn28-8_8xb8_cifar100-400.py 8
_base_ = [
    '../_base_/datasets/fixmatch_cifar100.py',
    '../_base_/schedules/fixmatch_1m.py',
    '../_base_/fixmatch_runtime.py',
    '../_base_/distill/fixmatch.py',
    '../_base_/models/fixmatch.py',
]

model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.networks.cifar100,
    teacher=None,
    distiller=_base_.distiller,
)
del _base_.networks
optim_wrapper = dict(optimizer=dict(weight_decay=1e-3))
# With 4 labels a class only.
sync_bn = 'torch'
