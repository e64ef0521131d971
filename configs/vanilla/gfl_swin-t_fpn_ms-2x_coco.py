# bash tools/dist_train.sh configs/vanilla/gfl_swin-t_fpn_ms-2x_coco.py 8
_base_ = [
    'mmdet::gfl/gfl_r50_fpn_ms-2x_coco.py',
    '../_base_/models/gfl_swin-t_coco.py',
    '../_base_/detection_runtime.py',
]
default_hooks = _base_.safe_hooks

model = dict(backbone=_base_.swin_t.backbone, neck=_base_.swin_t.neck)

# BCKD's own file is not published: the optimizer is that of mmdet's Swin detectors.
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        custom_keys={
            'absolute_pos_embed': dict(decay_mult=0.0),
            'relative_position_bias_table': dict(decay_mult=0.0),
            'norm': dict(decay_mult=0.0),
        }
    ),
)
