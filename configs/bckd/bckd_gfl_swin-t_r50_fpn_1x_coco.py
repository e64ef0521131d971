# bash tools/dist_train.sh configs/vanilla/gfl_swin-t_fpn_ms-2x_coco.py 8
# bash tools/dist_train.sh configs/bckd/bckd_gfl_swin-t_r50_fpn_1x_coco.py 8
_base_ = ['bckd_gfl_r101_r50_fpn_1x_coco.py', '../_base_/models/gfl_swin-t_coco.py']

model = dict(
    teacher=dict(_delete_=True, **_base_.swin_t),
    teacher_ckpt='work_dirs/gfl_swin-t_fpn_ms-2x_coco/epoch_24.pth',
)
