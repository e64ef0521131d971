# bash tools/dist_train.sh configs/vanilla/faster-rcnn_r50_fpn_180k_coco.py 4
_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py', '../_base_/schedules/coco_180k.py']

# detectron2's norms of backbones neither move nor learn.
model = dict(backbone=dict(norm_cfg=dict(requires_grad=False)))
