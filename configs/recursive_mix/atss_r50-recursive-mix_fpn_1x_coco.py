# bash tools/dist_train.sh configs/recursive_mix/recursive-mix_resnet50_8xb64_in1k.py 8 --amp
# bash tools/dist_train.sh configs/recursive_mix/atss_r50-recursive-mix_fpn_1x_coco.py 8
_base_ = ['mmdet::atss/atss_r50_fpn_1x_coco.py', '../_base_/detection_runtime.py']
default_hooks = _base_.safe_hooks

model = dict(
    backbone=dict(
        init_cfg=dict(
            _delete_=True,
            type='Pretrained',
            checkpoint='work_dirs/recursive-mix_resnet50_8xb64_in1k/epoch_300.pth',
            prefix='backbone.',
        ),
    ),
)
