# python tools/train.py configs/vanilla/digits_student.py
_base_ = [
    '../_base_/datasets/digits.py',
    '../_base_/schedules/digits_bs32.py',
    '../_base_/default_runtime.py',
]
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='ResNet_CIFAR',
        depth=18,
        in_channels=1,
        stem_channels=4,
        base_channels=4,
        num_stages=2,
        strides=(1, 2),
        dilations=(1, 1),
        out_indices=(1,),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead', num_classes=10, in_channels=8, loss=dict(type='CrossEntropyLoss')
    ),
)
