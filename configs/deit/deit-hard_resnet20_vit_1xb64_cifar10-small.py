# python tools/train.py configs/vanilla/resnet20_1xb64_cifar10-small.py
# python tools/train.py configs/deit/deit-hard_resnet20_vit_1xb64_cifar10-small.py
_base_ = ['../_base_/models/cifar10-small_vit_distill.py', '../_base_/distill/deit.py']

model = dict(
    distiller=dict(
        distill_losses=dict(loss_deit=dict(type='kd_plugins.DeiTLoss', loss_weight=0.5)),
        **_base_.distiller,
    ),
)
