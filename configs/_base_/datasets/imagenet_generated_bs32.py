# ImageNet's classes as a diffusion model has drawn them, 200,000 pictures, to train with;
# real ones to validate:
# python tools/generate_pictures.py --pipeline facebook/DiT-XL-2-256 --out data/generated/s2_st100
_base_ = ['mmpretrain::_base_/datasets/imagenet_bs32.py']

# Mixes pictures without labels, too, where train_cfg has mixup or cutmix.
data_preprocessor = dict(type='kd_plugins.ClsDataPreprocessor')
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='kd_plugins.GeneratedPictures',
        num_classes=1000,
        data_root='data/generated/s2_st100',
        ann_file='s2_st100_200k.txt',
        pipeline=_base_.train_pipeline,
    ),
)
