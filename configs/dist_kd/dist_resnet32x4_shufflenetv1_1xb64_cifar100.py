# python tools/train.py configs/vanilla/resnet32x4_1xb64_cifar100.py
# python tools/train.py configs/dist_kd/dist_resnet32x4_shufflenetv1_1xb64_cifar100.py
_base_ = ['../kd/kd_resnet32x4_shufflenetv1_1xb64_cifar100.py']

model = dict(
    architecture=dict(head=dict(loss=dict(loss_weight=1.0))),
    distiller=dict(
        distill_losses=dict(
            loss_kd=dict(_delete_=True, type='kd_plugins.DISTLoss', tau=4.0, loss_weight=2.0),
        ),
    ),
)
