# python tools/train.py configs/vanilla/gfl_scenes_teacher.py
# python tools/train.py configs/pkd/pkd_scenes.py
_base_ = ['../_base_/models/gfl_scenes_distill.py']

_pkd = dict(type='kd_plugins.PKDLoss', loss_weight=10.0)
model = dict(
    distiller=dict(
        connectors=dict(wider0=_base_.wider, wider1=_base_.wider),
        distill_losses=dict(loss_pkd0=_pkd, loss_pkd1=_pkd),
        loss_forward_mappings=dict(loss_pkd0=_base_.pairs[0], loss_pkd1=_base_.pairs[1]),
    ),
)
del _base_.wider, _base_.pairs, _base_.levels
