# python tools/train.py configs/vanilla/digits_teacher.py
_base_ = [
    '../_base_/models/digits.py',
    '../_base_/datasets/digits.py',
    '../_base_/schedules/digits_bs32.py',
    '../_base_/digits_runtime.py',
]
model = _base_.teacher

train_dataloader = dict(dataset=dict(train_per_class=None))
param_scheduler = dict(T_max=30)
train_cfg = dict(max_epochs=30)
