# python tools/train.py configs/vanilla/faster-rcnn_scenes_teacher.py
# python tools/train.py configs/reviewkd/reviewdkd_faster-rcnn_scenes.py
_base_ = ['../dkd/dkd_faster-rcnn_scenes.py', '../_base_/distill/reviewkd.py']

model = dict(
    distiller=dict(
        _base_.reviewkd,
        connectors=dict(
            fusion=dict(
                type='kd_plugins.ReviewKDConnector',
                in_channels=[32, 32],
                out_channels=[64, 64],
                mid_channels=32,
            ),
        ),
    ),
)
del _base_.reviewkd
