# bash tools/dist_train.sh configs/bckd/bckd_gfl_r101_r18_fpn_1x_coco.py 8
_base_ = ['bckd_gfl_r101_r50_fpn_1x_coco.py']

model = dict(
    architecture=dict(
        backbone=dict(depth=18, init_cfg=dict(checkpoint='torchvision://resnet18')),
        neck=dict(in_channels=[64, 128, 256, 512]),
    ),
)
