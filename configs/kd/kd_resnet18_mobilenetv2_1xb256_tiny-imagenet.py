# python tools/train.py configs/vanilla/resnet18_1xb256_tiny-imagenet.py
# python tools/train.py configs/kd/kd_resnet18_mobilenetv2_1xb256_tiny-imagenet.py
_base_ = [
    '../_base_/models/tiny_imagenet_kd.py',
    '../_base_/models/tiny_imagenet/resnet18.py',
    '../_base_/models/tiny_imagenet/mobilenetv2.py',
]

model = dict(
    architecture=_base_.mobilenetv2,
    teacher=_base_.resnet18,
    teacher_ckpt='work_dirs/resnet18_1xb256_tiny-imagenet/epoch_200.pth',
)
