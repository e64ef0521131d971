# KD on Tiny-ImageNet; a leaf adds the student, the teacher and its checkpoint.
_base_ = [
    '../datasets/tiny_imagenet_bs256.py',
    '../schedules/tiny_imagenet_bs256_200e.py',
    '../small_pictures_runtime.py',
    '../distill/kd.py',
    'tiny_imagenet.py',
]
