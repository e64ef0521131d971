# python tools/train.py configs/ctc/ctc_discriminability_resnext32-16x4d_1xb64_cifar100.py
_base_ = [
    '../_base_/models/cifar100.py',
    '../_base_/datasets/cifar100_bs64.py',
    '../_base_/schedules/cifar100_bs64_ctc_300e.py',
    '../_base_/small_pictures_runtime.py',
    '../_base_/distill/ctc.py',
]

model = dict(
    architecture=_base_.networks.resnext32_16x4d,
    distiller=dict(
        distill_losses=dict(
            loss_ctc=dict(
                type='kd_plugins.CTCLoss',
                samples=50000,
                channels=512,
                alpha=0.1,
                instance_tau=0.5,
                nce_tau=0.4,
            ),
        ),
    ),
)
del _base_.networks

default_hooks = dict(ctc=dict(type='kd_plugins.CTCHook', stage_two_epoch=200))
