# The CNN that taught DeiT and CSKD, 82.9 % top-1. Its network is timm's: pip install timm
regnety = dict(
    type='ImageClassifier',
    backbone=dict(type='TIMMBackbone', model_name='regnety_160'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=3024,
        loss=dict(type='CrossEntropyLoss'),
    ),
)
regnety_ckpt = 'https://dl.fbaipublicfiles.com/deit/regnety_160-a5fe301d.pth'
