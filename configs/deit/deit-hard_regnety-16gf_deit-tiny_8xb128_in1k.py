# bash tools/dist_train.sh configs/deit/deit-hard_regnety-16gf_deit-tiny_8xb128_in1k.py 8 --amp
_base_ = [
    '../_base_/schedules/deit_300e_in1k.py',
    '../_base_/models/regnety-16gf_in1k.py',
    '../_base_/distill/deit.py',
]

model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=dict(
        cfg_path='mmpretrain::deit/deit-tiny-distilled_4xb256_in1k.py',
        head=dict(type='kd_plugins.DistilledViTHead', loss=dict(loss_weight=0.5)),
    ),
    teacher=_base_.regnety,
    teacher_ckpt=_base_.regnety_ckpt,
    distiller=dict(
        distill_losses=dict(
            loss_deit=dict(type='kd_plugins.DeiTLoss', form='hard', loss_weight=0.5),
        ),
        **_base_.distiller,
    ),
)
