# bash tools/dist_train.sh configs/bckd/bckd_fcos_r101_r50_fpn_ms-2x_coco.py 8
_base_ = [
    'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_ms-640-800-2x_coco.py',
    '../_base_/distill/bckd.py',
    '../_base_/detection_runtime.py',
]
default_hooks = _base_.safe_hooks

model = dict(
    _delete_=True,
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.model,
    teacher=dict(
        cfg_path='mmdet::fcos/fcos_r101-caffe_fpn_gn-head_ms-640-800-2x_coco.py', pretrained=True
    ),
    distiller=_base_.distiller,
)
