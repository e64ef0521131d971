# python tools/train.py configs/vanilla/wrn40_2_1xb64_cifar100.py
# python tools/train.py configs/dist_kd/dist_wrn40_2_wrn40_1_1xb64_cifar100.py
_base_ = ['../kd/kd_wrn40_2_wrn40_1_1xb64_cifar100.py']

model = dict(
    architecture=dict(head=dict(loss=dict(loss_weight=1.0))),
    distiller=dict(
        distill_losses=dict(
            loss_kd=dict(_delete_=True, type='kd_plugins.DISTLoss', tau=4.0, loss_weight=2.0),
        ),
    ),
)
