# python tools/train.py configs/vanilla/digits_teacher.py
# python tools/train.py configs/dist_kd/dist_digits.py
_base_ = ['../_base_/models/digits_distill.py']

model = dict(
    distiller=dict(
        distill_losses=dict(
            # A tenth of the published weight: that drowns the labels at this rate.
            loss_kd=dict(type='kd_plugins.DISTLoss', tau=4.0, loss_weight=0.2),
        ),
    ),
)
