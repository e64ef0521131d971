# python tools/train.py configs/fullmatch/fullmatch_digits.py
_base_ = [
    '../_base_/datasets/fixmatch_digits.py',
    '../_base_/schedules/digits_bs32.py',
    '../_base_/digits_runtime.py',
    '../_base_/distill/fixmatch.py',
    '../_base_/distill/fullmatch.py',
    '../_base_/models/digits.py',
]

_more = _base_.fullmatch
_base_.distiller.distill_losses.update(_more.distill_losses)
_base_.distiller.loss_forward_mappings.update(_more.loss_forward_mappings)
model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.student,
    teacher=None,
    distiller=_base_.distiller,
)
auto_scale_lr = dict(base_batch_size=64)
del _base_.fullmatch
