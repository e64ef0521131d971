# DM-KD on CIFAR-100.
_base_ = ['cifar100_bs64_240e.py']

optim_wrapper = dict(optimizer=dict(lr=0.1))
auto_scale_lr = dict(base_batch_size=128)
