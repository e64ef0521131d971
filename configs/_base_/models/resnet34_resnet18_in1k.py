# ResNet-34 teaches ResNet-18; a leaf adds distill_losses.
_base_ = ['../distill/logits.py']

model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=dict(
        cfg_path='mmpretrain::resnet/resnet18_8xb32_in1k.py',
        # torch's own start of the classifier, and no zero one of the blocks, as published.
        backbone=dict(zero_init_residual=False),
        head=dict(init_cfg=None),
    ),
    teacher=dict(cfg_path='mmpretrain::resnet/resnet34_8xb32_in1k.py'),
    teacher_ckpt='torchvision://resnet34',
    distiller=_base_.distiller,
)
