# python tools/train.py configs/vanilla/digits_vit.py
_base_ = [
    '../_base_/models/digits_vit.py',
    '../_base_/datasets/digits.py',
    '../_base_/schedules/digits_vit_bs32.py',
    '../_base_/digits_runtime.py',
]
model = _base_.alone
