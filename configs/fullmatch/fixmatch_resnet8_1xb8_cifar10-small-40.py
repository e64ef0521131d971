# python tools/train.py configs/fullmatch/fixmatch_resnet8_1xb8_cifar10-small-40.py
_base_ = [
    '../_base_/datasets/fixmatch_cifar10-small.py',
    '../_base_/schedules/fixmatch_1m.py',
    '../_base_/fixmatch_runtime.py',
    '../_base_/distill/fixmatch.py',
    '../_base_/models/cifar10-small.py',
]

model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.student,
    teacher=None,
    distiller=_base_.distiller,
)
# An hour on one core, in the place of weeks.
max_iters = 6144
train_cfg = dict(max_iters=max_iters, val_interval=512)
param_scheduler = dict(T_max=16 / 7 * max_iters, end=max_iters)
default_hooks = dict(checkpoint=dict(interval=512))
auto_scale_lr = dict(base_batch_size=64)
