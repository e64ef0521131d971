# RecursiveMix on ImageNet: lr 0.2 for 512 pictures, a cosine that begins at once, times
# 1/6, 2/6, ... in the first epochs.
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.2, momentum=0.9, weight_decay=1e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=1 / 6, by_epoch=True, end=6),
    dict(type='CosineAnnealingLR', T_max=300, by_epoch=True),
]
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=512)
