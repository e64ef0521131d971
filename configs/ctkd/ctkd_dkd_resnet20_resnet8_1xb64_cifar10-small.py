# python tools/train.py configs/vanilla/resnet20_1xb64_cifar10-small.py
# python tools/train.py configs/ctkd/ctkd_dkd_resnet20_resnet8_1xb64_cifar10-small.py
_base_ = ['../dkd/dkd_resnet20_resnet8_1xb64_cifar10-small.py']

model = dict(
    distiller=dict(
        distill_losses=dict(
            # No warm-up of DKD: the paper leaves the easy start to the temperature.
            loss_kd=dict(tau=dict(_delete_=True, type='kd_plugins.GlobalTemperature'), warmup=1),
        ),
    ),
)
# 20 epochs, not 240: the curriculum is as short as the training.
default_hooks = dict(
    curriculum_temperature=dict(type='kd_plugins.CurriculumTemperatureHook', length=2),
)
