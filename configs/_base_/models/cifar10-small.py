# A teacher of 272,474 parameters and a student of 78,042.
def _network(depth):
    return dict(
        type='ImageClassifier',
        backbone=dict(type='kd_plugins.CIFARResNet', depth=depth),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=10,
            in_channels=64,
            loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
            init_cfg=None,
        ),
    )


student = _network(depth=8)
teacher = _network(depth=20)
