# python tools/train.py configs/vanilla/resnet56_1xb64_cifar100.py
# python tools/train.py configs/ctkd/ctkd_dkd_resnet56_resnet20_1xb64_cifar100.py
_base_ = ['../dkd/dkd_resnet56_resnet20_1xb64_cifar100.py']

model = dict(
    distiller=dict(
        distill_losses=dict(
            # No warm-up of DKD: the paper leaves the easy start to the temperature.
            loss_kd=dict(tau=dict(_delete_=True, type='kd_plugins.GlobalTemperature'), warmup=1),
        ),
    ),
)
default_hooks = dict(
    curriculum_temperature=dict(type='kd_plugins.CurriculumTemperatureHook', length=10),
)
