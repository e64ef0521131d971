# bash tools/dist_train.sh configs/vkd/vkd_regnety-16gf_deit-tiny_8xb64_in1k.py 8 --amp
_base_ = [
    '../_base_/schedules/vkd_300e_in1k.py',
    '../_base_/models/regnety-16gf_in1k.py',
    '../_base_/distill/vkd.py',
]

model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=dict(
        cfg_path='mmpretrain::deit/deit-tiny-distilled_4xb256_in1k.py',
        backbone=dict(drop_path_rate=0.1),
        head=dict(type='kd_plugins.DistilledViTHead', loss=dict(loss_weight=1.0)),
    ),
    teacher=_base_.regnety,
    teacher_ckpt=_base_.regnety_ckpt,
    distiller=dict(
        distill_losses=dict(
            loss_vkd=dict(
                type='kd_plugins.VkDLoss', channels_S=192, channels_T=3024, extra_tokens=2
            ),
            loss_kd=dict(type='kd_plugins.KDLoss', tau=1.0),
        ),
        **_base_.distiller,
    ),
)
