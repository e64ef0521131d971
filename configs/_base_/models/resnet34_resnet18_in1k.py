# ResNet-34 teaches ResNet-18; a leaf adds distill_losses.
_base_ = ['../distill/logits.py']

model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=dict(cfg_path='mmpretrain::resnet/resnet18_8xb32_in1k.py'),
    teacher=dict(cfg_path='mmpretrain::resnet/resnet34_8xb32_in1k.py'),
    teacher_ckpt='https://download.openmmlab.com/mmclassification/v0/resnet/'
    'resnet34_8xb32_in1k_20210831-f257d4e6.pth',
    distiller=_base_.distiller,
)
