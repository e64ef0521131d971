# 8 x 8 grey scans that scikit-learn ships; nothing is downloaded. Labels are
# scarce: 20 of each digit for training. The teacher has seen them all.
data_preprocessor = dict(num_classes=10, mean=[77.85], std=[95.89], to_rgb=False)

train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        type='kd_plugins.Digits',
        split='train',
        train_per_class=20,
        pipeline=[
            dict(type='RandomCrop', crop_size=8, padding=1),
            dict(type='PackInputs'),
        ],
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(type='kd_plugins.Digits', split='test', pipeline=[dict(type='PackInputs')]),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator
