# python tools/train.py configs/vanilla/resnet20_1xb64_cifar10-small.py
# python tools/repeat.py configs/kd/kd-stored_resnet20_resnet8_1xb64_cifar10-small.py
_base_ = ['kd_resnet20_resnet8_1xb64_cifar10-small.py']

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='kd_plugins.RepeatableViews',
        views=10,
        dataset=_base_.train_dataloader.dataset,
    ),
)
# As many views as the training set has.
model = dict(teacher_cache=dict(dir='work_dirs/resnet20_1xb64_cifar10-small/answers', views=10))
