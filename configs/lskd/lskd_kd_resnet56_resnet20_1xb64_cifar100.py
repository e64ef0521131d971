# python tools/train.py configs/vanilla/resnet56_1xb64_cifar100.py
# python tools/train.py configs/lskd/lskd_kd_resnet56_resnet20_1xb64_cifar100.py
_base_ = ['../kd/kd_resnet56_resnet20_1xb64_cifar100.py']

model = dict(
    distiller=dict(
        distill_losses=dict(
            loss_kd=dict(
                tau=dict(_delete_=True, type='kd_plugins.LSKDTemperature', tau=2.0), loss_weight=9.0
            ),
        ),
    ),
)
