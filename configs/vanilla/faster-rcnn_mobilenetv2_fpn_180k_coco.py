# bash tools/dist_train.sh configs/vanilla/faster-rcnn_mobilenetv2_fpn_180k_coco.py 4
_base_ = ['faster-rcnn_r50_fpn_180k_coco.py']

# Nothing is frozen but the norms.
model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        out_indices=(1, 2, 4, 6),
        norm_cfg=dict(type='BN', requires_grad=False),
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://mmdet/mobilenet_v2'),
    ),
    neck=dict(in_channels=[24, 32, 96, 320]),
)
