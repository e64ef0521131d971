# python tools/train.py configs/ctc/ctc_digits.py
_base_ = [
    '../_base_/models/digits.py',
    '../_base_/datasets/digits.py',
    '../_base_/schedules/digits_bs32.py',
    '../_base_/digits_runtime.py',
    '../_base_/distill/ctc.py',
]

model = dict(
    architecture=_base_.student,
    distiller=dict(
        distill_losses=dict(
            loss_ctc=dict(
                type='kd_plugins.CTCLoss', samples=200, channels=16, alpha=0.1, negatives=100,
                instance_tau=0.5, nce_tau=0.4,
            ),
        ),
    ),
)  # fmt: skip
del _base_.student, _base_.teacher

param_scheduler = None
default_hooks = dict(ctc=dict(type='kd_plugins.CTCHook', stage_two_epoch=66))
