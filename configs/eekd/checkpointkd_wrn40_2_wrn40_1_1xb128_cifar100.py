# python tools/train.py configs/eekd/even_wrn40_2_1xb128_cifar100.py
# python tools/train.py configs/eekd/checkpointkd_wrn40_2_wrn40_1_1xb128_cifar100.py
_base_ = [
    '../_base_/models/cifar100.py',
    '../_base_/datasets/cifar100_bs64.py',
    '../_base_/schedules/cifar100_bs128_200e.py',
    '../_base_/small_pictures_runtime.py',
    '../_base_/distill/checkpointkd.py',
]

model = dict(
    architecture=_base_.networks.wrn40_1,
    teacher=_base_.networks.wrn40_2,
    teacher_ckpt=[f'work_dirs/even_wrn40_2_1xb128_cifar100/even/epoch_{n}.pth' for n in (100, 200)],
)
del _base_.networks

train_dataloader = dict(batch_size=128)
