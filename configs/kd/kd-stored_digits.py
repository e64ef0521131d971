# python tools/train.py configs/vanilla/digits_teacher.py
# python tools/repeat.py configs/kd/kd-stored_digits.py
_base_ = ['kd_digits.py']

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='kd_plugins.RepeatableViews',
        views=10,
        dataset=_base_.train_dataloader.dataset,
    ),
)
# As many views as the training set has.
model = dict(teacher_cache=dict(dir='work_dirs/digits_teacher/answers', views=10))
