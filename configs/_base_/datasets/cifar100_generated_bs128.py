# CIFAR-100's classes as a diffusion model has drawn them, 50,000 pictures of 256 x 256, to
# train with; real ones to validate. prompts.txt has a line for every class, in the order of
# CIFAR-100, such as "a photo of an apple":
# python tools/generate_pictures.py --pipeline MY_TEXT_TO_IMAGE --prompts prompts.txt \
#     --classes 0-99 --seeds 0-49 --out data/generated/cifar100_s2_st100
_base_ = ['cifar100_bs64.py']

data_preprocessor = dict(type='kd_plugins.ClsDataPreprocessor')
train_dataloader = dict(
    batch_size=128,
    dataset=dict(
        _delete_=True,
        type='kd_plugins.GeneratedPictures',
        num_classes=100,
        data_root='data/generated/cifar100_s2_st100',
        ann_file='s2_st100_50k.txt',
        pipeline=[
            # As the real ones lie in memory.
            dict(type='kd_plugins.LoadImageFromFile', channel_order='rgb'),
            # OpenCV would take every eighth pixel or so.
            dict(type='Resize', scale=(32, 32), backend='pillow'),
            dict(type='RandomCrop', crop_size=32, padding=4),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ],
    ),
)
