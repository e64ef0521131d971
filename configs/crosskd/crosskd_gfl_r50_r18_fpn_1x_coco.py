# bash tools/dist_train.sh configs/crosskd/crosskd_gfl_r50_r18_fpn_1x_coco.py 8
_base_ = ['crosskd_gfl_r101_r50_fpn_1x_coco.py']

model = dict(
    architecture=dict(
        backbone=dict(
            depth=18, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')
        ),
        neck=dict(in_channels=[64, 128, 256, 512]),
    ),
    teacher=dict(cfg_path='mmdet::gfl/gfl_r50_fpn_1x_coco.py'),
)
