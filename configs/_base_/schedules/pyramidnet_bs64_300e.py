# RecursiveMix on CIFAR: 1/6, 2/6, ... of the learning rate in the first epochs, as in the
# published logs.
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.25, momentum=0.9, weight_decay=1e-4, nesterov=True)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1 / 6, by_epoch=True, end=6),
    dict(type='MultiStepLR', milestones=[150, 225], gamma=0.1, by_epoch=True),
]
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=64)
