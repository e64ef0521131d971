# python tools/train.py configs/vanilla/digits_teacher.py
# python tools/train.py configs/wttm/wttm_digits.py
_base_ = ['../_base_/models/digits_distill.py']

model = dict(
    distiller=dict(
        distill_losses=dict(
            loss_kd=dict(type='kd_plugins.WTTMLoss', gamma=0.2, loss_weight=4.0),
        ),
    ),
)
