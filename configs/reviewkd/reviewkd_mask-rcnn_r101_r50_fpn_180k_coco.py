# bash tools/dist_train.sh configs/reviewkd/reviewkd_mask-rcnn_r101_r50_fpn_180k_coco.py 4
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    '../_base_/schedules/coco_180k.py',
    '../_base_/distill/reviewkd.py',
]
_base_.model.backbone.norm_cfg.requires_grad = False
_base_.train_dataloader.dataset.pipeline[1].update(with_mask=True, poly2mask=False)

model = dict(
    _delete_=True,
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.model,
    teacher=dict(
        cfg_path='mmdet::mask_rcnn/mask-rcnn_r101-caffe_fpn_ms-poly-3x_coco.py', pretrained=True
    ),
    distiller=dict(
        _base_.reviewkd,
        distill_losses=dict(
            loss_reviewkd=dict(type='kd_plugins.ReviewKDLoss', loss_weight=0.8),
        ),
    ),
)
del _base_.reviewkd

val_evaluator = dict(metric=['bbox', 'segm'])
test_evaluator = val_evaluator
