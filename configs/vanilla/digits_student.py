# python tools/train.py configs/vanilla/digits_student.py
_base_ = [
    '../_base_/models/digits.py',
    '../_base_/datasets/digits.py',
    '../_base_/schedules/digits_bs32.py',
    '../_base_/digits_runtime.py',
]
model = _base_.student
