# python tools/train.py configs/vanilla/resnet20_1xb64_cifar10-small.py
# python tools/train.py configs/lskd/lskd_dkd_resnet20_resnet8_1xb64_cifar10-small.py
_base_ = ['../dkd/dkd_resnet20_resnet8_1xb64_cifar10-small.py']

model = dict(
    distiller=dict(
        distill_losses=dict(
            loss_kd=dict(
                tau=dict(_delete_=True, type='kd_plugins.LSKDTemperature', tau=2.0), loss_weight=9.0
            ),
        ),
    ),
)
