# The protocol of ReviewKD and DKD on COCO: 180,000 iterations of 8 pictures (4 GPUs of
# 2), lr 0.01, x0.1 at 120,000 and 160,000, no decay of norms. Pictures, scales and
# warm-up are those of upstream's config, which follows detectron2.
_base_ = ['mmdet::common/ms-90k_coco.py', '../detection_runtime.py']

default_hooks = _base_.safe_hooks
default_hooks.checkpoint.update(by_epoch=False, interval=10000)
max_iter = 180000
train_cfg = dict(max_iters=max_iter)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(
        type='MultiStepLR',
        begin=0,
        end=max_iter,
        by_epoch=False,
        milestones=[120000, 160000],
        gamma=0.1,
    ),
]
optim_wrapper = dict(optimizer=dict(lr=0.01), paramwise_cfg=dict(norm_decay_mult=0.0))
auto_scale_lr = dict(base_batch_size=8)
