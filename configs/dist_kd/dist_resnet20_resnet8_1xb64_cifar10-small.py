# python tools/train.py configs/vanilla/resnet20_1xb64_cifar10-small.py
# python tools/train.py configs/dist_kd/dist_resnet20_resnet8_1xb64_cifar10-small.py
_base_ = ['../_base_/models/cifar10-small_distill.py']

model = dict(
    distiller=dict(
        distill_losses=dict(
            loss_kd=dict(type='kd_plugins.DISTLoss', tau=4.0, loss_weight=2.0),
        ),
    ),
)
