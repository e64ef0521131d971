# bash tools/dist_train.sh configs/vkd/vkd_regnety-16gf_deit-small_8xb64_in1k.py 8 --amp
_base_ = ['vkd_regnety-16gf_deit-tiny_8xb64_in1k.py']

model = dict(
    architecture=dict(cfg_path='mmpretrain::deit/deit-small-distilled_4xb256_in1k.py'),
    distiller=dict(distill_losses=dict(loss_vkd=dict(channels_S=384))),
)
