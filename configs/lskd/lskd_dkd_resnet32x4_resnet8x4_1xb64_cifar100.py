# python tools/train.py configs/vanilla/resnet32x4_1xb64_cifar100.py
# python tools/train.py configs/lskd/lskd_dkd_resnet32x4_resnet8x4_1xb64_cifar100.py
_base_ = ['../dkd/dkd_resnet32x4_resnet8x4_1xb64_cifar100.py']

model = dict(
    distiller=dict(
        distill_losses=dict(
            loss_kd=dict(
                tau=dict(_delete_=True, type='kd_plugins.LSKDTemperature', tau=2.0),
                loss_weight=9.0,
                beta=8.0,
            ),
        ),
    ),
)
