# python tools/train.py configs/vanilla/resnet20_1xb64_cifar10-small.py
# python tools/train.py configs/ctkd/ctkd_kd_resnet20_resnet8_1xb64_cifar10-small.py
_base_ = ['../kd/kd_resnet20_resnet8_1xb64_cifar10-small.py']

model = dict(
    distiller=dict(
        distill_losses=dict(
            loss_kd=dict(tau=dict(_delete_=True, type='kd_plugins.GlobalTemperature')),
        ),
    ),
)
# 20 epochs, not 240: the curriculum is as short as the training.
default_hooks = dict(
    curriculum_temperature=dict(type='kd_plugins.CurriculumTemperatureHook', length=2),
)
