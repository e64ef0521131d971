# python tools/make_digit_scenes.py
# python tools/train.py configs/vanilla/faster-rcnn_scenes_teacher.py
_base_ = [
    '../_base_/models/faster-rcnn_scenes.py',
    '../_base_/datasets/digit_scenes.py',
    '../_base_/schedules/scenes.py',
    '../_base_/scenes_runtime.py',
]
model = _base_.teacher

# Half as long again as a student, at a lower rate.
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', T_max=12, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=12, val_interval=12)
