# bash tools/dist_train.sh configs/dot/dot_ld_gflv1_r101_r18_fpn_1x_coco.py 8
_base_ = ['../ld/ld_gfl_r101_r18_fpn_1x_coco.py']

# mmdet's own detector and head; DOT finds the distillation by its key, loss_ld.
optim_wrapper = dict(type='kd_plugins.DOTOptimWrapper', delta=0.075)
