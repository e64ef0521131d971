# python tools/train.py configs/vanilla/gfl_scenes_teacher.py
# python tools/repeat.py configs/bckd/bckd-stored_scenes.py --seeds 0 1 2
_base_ = ['bckd_scenes.py']

# The scenes come as they are: one view is all that a training sees.
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='kd_plugins.RepeatableViews',
        views=1,
        dataset=_base_.train_dataloader.dataset,
    ),
)
model = dict(teacher_cache=dict(dir='work_dirs/gfl_scenes_teacher/answers', views=1))
