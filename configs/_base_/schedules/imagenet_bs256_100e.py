# Zipf's label smoothing on ImageNet and iNaturalist: lr 0.1 for 256 pictures.
_base_ = ['imagenet_bs512_100e.py']

optim_wrapper = dict(optimizer=dict(lr=0.1))
auto_scale_lr = dict(base_batch_size=256)
