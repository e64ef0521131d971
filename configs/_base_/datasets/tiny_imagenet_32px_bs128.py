# Tiny-ImageNet as Zipf's label smoothing reads it, at 32 pixels.
_base_ = ['tiny_imagenet_bs256.py']

data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
_load = dict(type='kd_plugins.LoadImageFromFile')
_resize = dict(type='ResizeEdge', scale=32)
train_dataloader = dict(
    batch_size=128,
    dataset=dict(
        pipeline=[
            _load,
            dict(type='RandomResizedCrop', scale=32),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ],
    ),
)
val_dataloader = dict(dataset=dict(pipeline=[_load, _resize, dict(type='PackInputs')]))
# Upstream's inferencers look for upstream's loader by its name.
test_dataloader = dict(
    dataset=dict(pipeline=[dict(type='LoadImageFromFile'), _resize, dict(type='PackInputs')])
)
