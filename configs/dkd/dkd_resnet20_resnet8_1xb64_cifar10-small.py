# python tools/train.py configs/vanilla/resnet20_1xb64_cifar10-small.py
# python tools/train.py configs/dkd/dkd_resnet20_resnet8_1xb64_cifar10-small.py
_base_ = ['../_base_/models/cifar10-small_distill.py']

model = dict(
    distiller=dict(
        distill_losses=dict(
            # The settings for ResNets of the same widths, the warm-up as short as the training.
            loss_kd=dict(type='kd_plugins.DKDLoss', tau=4.0, alpha=1.0, beta=2.0, warmup=2),
        ),
    ),
)
