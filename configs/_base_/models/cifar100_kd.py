# KD on CIFAR-100; a leaf adds the student, the teacher and its checkpoint.
_base_ = [
    '../datasets/cifar100_bs64.py',
    '../schedules/cifar100_bs64_240e.py',
    '../small_pictures_runtime.py',
    '../distill/kd.py',
    'cifar100.py',
]
