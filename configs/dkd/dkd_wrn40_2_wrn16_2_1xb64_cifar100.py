# python tools/train.py configs/vanilla/wrn40_2_1xb64_cifar100.py
# python tools/train.py configs/dkd/dkd_wrn40_2_wrn16_2_1xb64_cifar100.py
_base_ = ['../kd/kd_wrn40_2_wrn16_2_1xb64_cifar100.py']

model = dict(
    architecture=dict(head=dict(loss=dict(loss_weight=1.0))),
    distiller=dict(
        distill_losses=dict(
            loss_kd=dict(
                _delete_=True, type='kd_plugins.DKDLoss', tau=4.0, alpha=1.0, beta=6.0, warmup=20
            ),
        ),
    ),
)
