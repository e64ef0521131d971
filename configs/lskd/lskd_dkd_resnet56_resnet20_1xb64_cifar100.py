# python tools/train.py configs/vanilla/resnet56_1xb64_cifar100.py
# python tools/train.py configs/lskd/lskd_dkd_resnet56_resnet20_1xb64_cifar100.py
_base_ = ['../dkd/dkd_resnet56_resnet20_1xb64_cifar100.py']

model = dict(
    distiller=dict(
        distill_losses=dict(
            loss_kd=dict(
                tau=dict(_delete_=True, type='kd_plugins.LSKDTemperature', tau=3.0),
                loss_weight=18.0,
                beta=2.0,
            ),
        ),
    ),
)
