# python tools/train.py configs/vanilla/gfl_scenes_teacher.py
# python tools/train.py configs/mgd/mgd_scenes.py
_base_ = ['../_base_/models/gfl_scenes_distill.py']

model = dict(
    distiller=dict(
        distill_losses=dict(
            loss_mgd=dict(
                type='kd_plugins.MGDLoss',
                channels_S=[32, 32],
                channels_T=[64, 64],
                # It is summed over channels and positions, 237 times fewer than where 2e-5 was
                # published.
                loss_weight=5e-3,
                mask_ratio=0.65,
            ),
        ),
        loss_forward_mappings=dict(loss_mgd=_base_.levels),
    ),
)
del _base_.wider, _base_.pairs, _base_.levels
