# python tools/train.py configs/vanilla/gfl_scenes_teacher.py
# python tools/train.py configs/mse/mse_scenes.py
_base_ = ['../_base_/models/gfl_scenes_distill.py']

model = dict(
    distiller=dict(
        _delete_=True,
        type='kd_plugins.AutoDistiller',
        term=dict(type='kd_plugins.MSELoss', loss_weight=1.0),
    ),
)
del _base_.wider, _base_.pairs, _base_.levels
