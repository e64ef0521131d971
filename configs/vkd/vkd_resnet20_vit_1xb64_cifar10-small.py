# python tools/train.py configs/vanilla/resnet20_1xb64_cifar10-small.py
# python tools/train.py configs/vkd/vkd_resnet20_vit_1xb64_cifar10-small.py
_base_ = ['../_base_/models/cifar10-small_vit_distill.py', '../_base_/distill/vkd.py']

model = dict(
    architecture=dict(head=dict(loss=dict(loss_weight=1.0))),
    distiller=dict(
        distill_losses=dict(
            loss_vkd=dict(type='kd_plugins.VkDLoss', channels_S=96, channels_T=64, extra_tokens=2),
            loss_kd=dict(type='kd_plugins.KDLoss', tau=1.0),
        ),
        **_base_.distiller,
    ),
)
