# python tools/train.py configs/vanilla/wrn40_2_1xb64_cifar100.py
# python tools/train.py configs/lskd/lskd_ctkd_kd_wrn40_2_wrn40_1_1xb64_cifar100.py
_base_ = ['../ctkd/ctkd_kd_wrn40_2_wrn40_1_1xb64_cifar100.py']

model = dict(
    distiller=dict(
        distill_losses=dict(
            loss_kd=dict(
                tau=dict(
                    _delete_=True,
                    type='kd_plugins.LSKDTemperature',
                    tau=dict(type='kd_plugins.GlobalTemperature'),
                ),
                loss_weight=9.0,
            ),
        ),
    ),
)
