# ResNet-50 teaches MobileNetV1; a leaf adds distill_losses.
_base_ = ['../distill/logits.py', 'mobilenetv1_in1k.py']

model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.mobilenetv1,
    teacher=dict(cfg_path='mmpretrain::resnet/resnet50_8xb32_in1k.py'),
    # Of 76.13 % top-1, with which the papers' tables were made.
    teacher_ckpt='torchvision://resnet50.imagenet1k_v1',
    distiller=_base_.distiller,
)
