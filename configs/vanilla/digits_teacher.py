# python tools/train.py configs/vanilla/digits_teacher.py
_base_ = ['digits_student.py']
model = dict(
    backbone=dict(
        stem_channels=16,
        base_channels=16,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(2,),
    ),
    head=dict(in_channels=64),
)
