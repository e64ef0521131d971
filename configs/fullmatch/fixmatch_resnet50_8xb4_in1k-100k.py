# bash tools/dist_train.sh configs/fullmatch/fixmatch_resnet50_8xb4_in1k-100k.py 8
_base_ = [
    '../_base_/datasets/fixmatch_in1k.py',
    '../_base_/schedules/fixmatch_1m.py',
    '../_base_/fixmatch_runtime.py',
    '../_base_/distill/fixmatch.py',
    '../_base_/models/fixmatch.py',
]

model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.networks.in1k,
    teacher=None,
    distiller=_base_.distiller,
)
del _base_.networks
max_iters = 2000000
train_cfg = dict(max_iters=max_iters, val_interval=10000)
param_scheduler = dict(T_max=16 / 7 * max_iters, end=max_iters)
optim_wrapper = dict(optimizer=dict(weight_decay=3e-4))
default_hooks = dict(checkpoint=dict(interval=10000))
auto_scale_lr = dict(base_batch_size=256)
