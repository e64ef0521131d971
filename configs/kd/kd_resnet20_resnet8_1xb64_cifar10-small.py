# python tools/train.py configs/vanilla/resnet20_1xb64_cifar10-small.py
# python tools/train.py configs/kd/kd_resnet20_resnet8_1xb64_cifar10-small.py
_base_ = ['../_base_/models/cifar10-small_distill.py']

model = dict(
    architecture=dict(head=dict(loss=dict(loss_weight=0.1))),
    distiller=dict(
        distill_losses=dict(loss_kd=dict(type='kd_plugins.KDLoss', tau=4.0, loss_weight=0.9)),
    ),
)
