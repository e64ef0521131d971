# python tools/train.py configs/vanilla/resnet110_1xb64_cifar100.py
# python tools/train.py configs/lskd/lskd_kd_resnet110_resnet20_1xb64_cifar100.py
_base_ = ['../kd/kd_resnet110_resnet20_1xb64_cifar100.py']

model = dict(
    distiller=dict(
        distill_losses=dict(
            loss_kd=dict(
                tau=dict(_delete_=True, type='kd_plugins.LSKDTemperature', tau=4.0),
                loss_weight=12.0,
            ),
        ),
    ),
)
