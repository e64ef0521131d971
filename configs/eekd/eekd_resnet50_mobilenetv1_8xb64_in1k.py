# bash tools/dist_train.sh configs/eekd/even_resnet50_8xb64_in1k.py 8
# bash tools/dist_train.sh configs/eekd/eekd_resnet50_mobilenetv1_8xb64_in1k.py 8
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64.py',
    '../_base_/schedules/imagenet_bs512_100e.py',
    '../_base_/default_runtime.py',
    '../_base_/models/resnet50_mobilenetv1_in1k.py',
    '../_base_/distill/eekd.py',
]

model = dict(
    architecture=dict(head=dict(loss=dict(loss_weight=0.5))),
    teacher_ckpt=[
        f'work_dirs/even_resnet50_8xb64_in1k/even/epoch_{n}.pth' for n in (20, 40, 60, 80, 100)
    ],
    distiller=dict(
        **_base_.eekd,
        distill_losses=dict(
            loss_kd=dict(
                type='kd_plugins.EEKDLoss',
                tau=5.0,
                channels_S=1024,
                channels_T=2048,
                loss_weight=0.5,
            ),
        ),
    ),
)
del _base_.eekd
