# bash tools/dist_train.sh configs/deit/deit-hard_regnety-16gf_deit-base_8xb32_in1k.py 8 --amp
_base_ = ['deit-hard_regnety-16gf_deit-tiny_8xb128_in1k.py']

model = dict(architecture=dict(cfg_path='mmpretrain::deit/deit-base-distilled_16xb64_in1k.py'))

train_dataloader = dict(batch_size=32)
optim_wrapper = dict(optimizer=dict(lr=2.5e-4))
# From 1e-6.
param_scheduler = [dict(_base_.param_scheduler[0], start_factor=4e-3), _base_.param_scheduler[1]]
auto_scale_lr = dict(base_batch_size=256)
