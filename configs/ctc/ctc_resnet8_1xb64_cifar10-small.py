# python tools/train.py configs/ctc/ctc_resnet8_1xb64_cifar10-small.py
_base_ = [
    '../_base_/models/cifar10-small.py',
    '../_base_/datasets/cifar10-small.py',
    '../_base_/schedules/cifar10-small_bs64.py',
    '../_base_/default_runtime.py',
    '../_base_/distill/ctc.py',
]

model = dict(
    architecture=_base_.student,
    distiller=dict(
        distill_losses=dict(
            loss_ctc=dict(
                type='kd_plugins.CTCLoss', samples=5000, channels=64, alpha=0.1, negatives=4096,
                instance_tau=0.5, nce_tau=0.4,
            ),
        ),
    ),
)  # fmt: skip
del _base_.student, _base_.teacher

param_scheduler = None
default_hooks = dict(ctc=dict(type='kd_plugins.CTCHook', stage_two_epoch=13))
