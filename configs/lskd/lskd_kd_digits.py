# python tools/train.py configs/vanilla/digits_teacher.py
# python tools/train.py configs/lskd/lskd_kd_digits.py
_base_ = ['../kd/kd_digits.py']

model = dict(
    distiller=dict(
        distill_losses=dict(
            loss_kd=dict(
                tau=dict(_delete_=True, type='kd_plugins.LSKDTemperature', tau=2.0), loss_weight=9.0
            ),
        ),
    ),
)
