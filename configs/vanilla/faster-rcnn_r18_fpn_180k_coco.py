# bash tools/dist_train.sh configs/vanilla/faster-rcnn_r18_fpn_180k_coco.py 4
_base_ = ['faster-rcnn_r50_fpn_180k_coco.py']

model = dict(
    backbone=dict(depth=18, init_cfg=dict(checkpoint='torchvision://resnet18')),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
