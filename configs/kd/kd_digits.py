# python tools/train.py configs/vanilla/digits_teacher.py
# python tools/train.py configs/kd/kd_digits.py
_base_ = ['../_base_/models/digits_distill.py']

model = dict(
    # 0.1 and 0.9 at tau 4: the protocol of the papers on CIFAR-100.
    architecture=dict(head=dict(loss=dict(loss_weight=0.1))),
    distiller=dict(
        distill_losses=dict(loss_kd=dict(type='kd_plugins.KDLoss', tau=4.0, loss_weight=0.9)),
    ),
)
