# bash tools/dist_train.sh configs/kd/kd_resnet50_mobilenetv1_8xb64_in1k.py 8
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64.py',
    '../_base_/schedules/imagenet_bs512_100e.py',
    '../_base_/default_runtime.py',
    '../_base_/models/resnet50_mobilenetv1_in1k.py',
]

model = dict(
    architecture=dict(head=dict(loss=dict(loss_weight=0.5))),
    distiller=dict(
        distill_losses=dict(loss_kd=dict(type='kd_plugins.KDLoss', tau=1.0, loss_weight=0.5)),
    ),
)
