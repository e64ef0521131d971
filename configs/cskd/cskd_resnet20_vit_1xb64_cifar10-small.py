# python tools/train.py configs/vanilla/resnet20_1xb64_cifar10-small.py
# python tools/train.py configs/cskd/cskd_resnet20_vit_1xb64_cifar10-small.py
_base_ = ['../_base_/models/cifar10-small_vit_distill.py', '../_base_/distill/cskd.py']

model = dict(
    architecture=dict(backbone=dict(out_type='raw'), head=dict(predictions=3)),
    distiller=dict(
        distill_losses=dict(
            loss_deit=dict(type='kd_plugins.DeiTLoss', form='hard', loss_weight=0.5),
            loss_cskd=dict(type='kd_plugins.CSKDLoss', form='hard', decay='linear'),
        ),
        **_base_.distiller,
    ),
)
