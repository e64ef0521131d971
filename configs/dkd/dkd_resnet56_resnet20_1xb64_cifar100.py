# python tools/train.py configs/vanilla/resnet56_1xb64_cifar100.py
# python tools/train.py configs/dkd/dkd_resnet56_resnet20_1xb64_cifar100.py
_base_ = ['../kd/kd_resnet56_resnet20_1xb64_cifar100.py']

model = dict(
    architecture=dict(head=dict(loss=dict(loss_weight=1.0))),
    distiller=dict(
        distill_losses=dict(
            loss_kd=dict(
                _delete_=True, type='kd_plugins.DKDLoss', tau=4.0, alpha=1.0, beta=2.0, warmup=20
            ),
        ),
    ),
)
