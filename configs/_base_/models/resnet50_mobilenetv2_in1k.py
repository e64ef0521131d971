# ResNet-50 teaches MobileNetV2; a leaf adds distill_losses.
_base_ = ['../distill/logits.py']

model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=dict(cfg_path='mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py'),
    teacher=dict(cfg_path='mmpretrain::resnet/resnet50_8xb32_in1k.py'),
    teacher_ckpt='torchvision://resnet50.imagenet1k_v1',
    distiller=_base_.distiller,
)
