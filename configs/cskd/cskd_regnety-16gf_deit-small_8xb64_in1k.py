# bash tools/dist_train.sh configs/cskd/cskd_regnety-16gf_deit-small_8xb64_in1k.py 8 --amp
_base_ = ['cskd_regnety-16gf_deit-tiny_8xb128_in1k.py']

model = dict(architecture=dict(cfg_path='mmpretrain::deit/deit-small-distilled_4xb256_in1k.py'))

train_dataloader = dict(batch_size=64)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
# From 1e-6.
param_scheduler = [dict(_base_.param_scheduler[0], start_factor=2e-3), _base_.param_scheduler[1]]
auto_scale_lr = dict(base_batch_size=512)
