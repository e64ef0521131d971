# python tools/train.py configs/vanilla/vgg13_1xb64_cifar100.py
# python tools/train.py configs/ctkd/ctkd_dkd_vgg13_vgg8_1xb64_cifar100.py
_base_ = ['ctkd_kd_vgg13_vgg8_1xb64_cifar100.py']

model = dict(
    architecture=dict(head=dict(loss=dict(loss_weight=1.0))),
    distiller=dict(
        distill_losses=dict(
            # No warm-up of DKD: the paper leaves the easy start to the temperature.
            loss_kd=dict(type='kd_plugins.DKDLoss', alpha=1.0, beta=2.0, loss_weight=1.0, warmup=1),
        ),
    ),
)
