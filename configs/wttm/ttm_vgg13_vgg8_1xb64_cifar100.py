# python tools/train.py configs/vanilla/vgg13_1xb64_cifar100.py
# python tools/train.py configs/wttm/ttm_vgg13_vgg8_1xb64_cifar100.py
_base_ = ['../kd/kd_vgg13_vgg8_1xb64_cifar100.py']

model = dict(
    architecture=dict(head=dict(loss=dict(loss_weight=1.0))),
    distiller=dict(
        distill_losses=dict(
            loss_kd=dict(
                _delete_=True,
                type='kd_plugins.WTTMLoss',
                gamma=0.1,
                loss_weight=45.0,
                weighted=False,
            ),
        ),
    ),
)
