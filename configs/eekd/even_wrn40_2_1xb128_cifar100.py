# python tools/train.py configs/eekd/even_wrn40_2_1xb128_cifar100.py
_base_ = [
    '../_base_/models/cifar100.py',
    '../_base_/datasets/cifar100_bs64.py',
    '../_base_/schedules/cifar100_bs128_200e.py',
    '../_base_/small_pictures_runtime.py',
]
model = _base_.networks.wrn40_2
del _base_.networks

train_dataloader = dict(batch_size=128)
default_hooks = dict(even=dict(type='kd_plugins.EvenCheckpointHook', number=10))
