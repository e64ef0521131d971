# bash tools/dist_train.sh configs/cskd/cskd_regnety-16gf_deit-tiny_8xb128_in1k.py 8 --amp
_base_ = [
    '../_base_/schedules/deit_300e_in1k.py',
    '../_base_/models/regnety-16gf_in1k.py',
    '../_base_/distill/cskd.py',
]

model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=dict(
        cfg_path='mmpretrain::deit/deit-tiny-distilled_4xb256_in1k.py',
        backbone=dict(out_type='raw'),
        head=dict(type='kd_plugins.DistilledViTHead', predictions=3, loss=dict(loss_weight=0.5)),
    ),
    teacher=_base_.regnety,
    teacher_ckpt=_base_.regnety_ckpt,
    distiller=dict(
        distill_losses=dict(
            loss_deit=dict(type='kd_plugins.DeiTLoss', form='hard', loss_weight=0.5),
            loss_cskd=dict(
                type='kd_plugins.CSKDLoss', form='hard', decay='linear', loss_weight=1.0
            ),
        ),
        **_base_.distiller,
    ),
)
