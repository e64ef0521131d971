# python tools/train.py configs/vanilla/digits_teacher.py
# python tools/train.py configs/kd/kd_digits.py
_base_ = ['../_base_/models/digits_distill.py']

model = dict(
    distiller=dict(distill_losses=dict(loss_kd=dict(type='kd_plugins.KDLoss', tau=4.0))),
)
