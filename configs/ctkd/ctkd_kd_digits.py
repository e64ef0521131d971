# python tools/train.py configs/vanilla/digits_teacher.py
# python tools/train.py configs/ctkd/ctkd_kd_digits.py
_base_ = ['../kd/kd_digits.py']

model = dict(
    distiller=dict(
        distill_losses=dict(
            loss_kd=dict(tau=dict(_delete_=True, type='kd_plugins.GlobalTemperature')),
        ),
    ),
)
default_hooks = dict(
    curriculum_temperature=dict(type='kd_plugins.CurriculumTemperatureHook', length=10),
)
