# FixMatch's: SGD with Nesterov momentum, no decay of biases and norms, 2^20 iterations with
# lr 0.03 cos(7 pi t / (16 * 2^20)).
max_iters = 2**20
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.03, momentum=0.9, nesterov=True, weight_decay=5e-4),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
# From lr down to -lr, (1 + cos) / 2 is a cosine; it is left at 7 / 16 of pi.
param_scheduler = dict(
    type='CosineAnnealingLR',
    T_max=16 / 7 * max_iters,
    eta_min_ratio=-1.0,
    end=max_iters,
    by_epoch=False,
)
train_cfg = dict(by_epoch=False, max_iters=max_iters, val_interval=1024)
val_cfg = dict()
test_cfg = dict()
# 64 labelled and 448 unlabelled pictures.
auto_scale_lr = dict(base_batch_size=512)
