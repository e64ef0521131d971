# bash tools/dist_train.sh configs/bckd/bckd_gfl_r101_mobilenetv2_fpn_1x_coco.py 8
_base_ = ['bckd_gfl_r101_r50_fpn_1x_coco.py']

model = dict(
    architecture=dict(
        backbone=dict(
            _delete_=True,
            type='MobileNetV2',
            out_indices=(1, 2, 4, 6),
            act_cfg=dict(type='LeakyReLU', negative_slope=0.1),
            init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://mmdet/mobilenet_v2'),
        ),
        neck=dict(in_channels=[24, 32, 96, 320]),
    ),
)
