# DM-KD on CIFAR-100; a leaf adds the student, the teacher and its checkpoint.
_base_ = [
    '../datasets/cifar100_generated_bs128.py',
    '../schedules/cifar100_bs128_240e.py',
    '../small_pictures_runtime.py',
    '../distill/dmkd.py',
    'cifar100.py',
]
