# python tools/train.py configs/vanilla/gfl_scenes_teacher.py
# python tools/train.py configs/cwd/cwd_scenes.py
_base_ = ['../_base_/models/gfl_scenes_distill.py']

_norm = dict(norm_cfg=dict(type='BN'))
_cwd = dict(type='kd_plugins.CWDLoss', tau=1.0, loss_weight=10.0)
model = dict(
    distiller=dict(
        connectors=dict(wider0=dict(_base_.wider, **_norm), wider1=dict(_base_.wider, **_norm)),
        distill_losses=dict(loss_cwd0=_cwd, loss_cwd1=_cwd),
        loss_forward_mappings=dict(loss_cwd0=_base_.pairs[0], loss_cwd1=_base_.pairs[1]),
    ),
)
del _base_.wider, _base_.pairs, _base_.levels
