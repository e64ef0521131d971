# python tools/train.py configs/vanilla/digits_teacher.py
# python tools/train.py configs/dkd/dkd_digits.py
_base_ = ['../_base_/models/digits_distill.py']

model = dict(
    distiller=dict(
        distill_losses=dict(
            loss_kd=dict(type='kd_plugins.DKDLoss', tau=4.0, alpha=1.0, beta=2.0, warmup=5),
        ),
    ),
)
