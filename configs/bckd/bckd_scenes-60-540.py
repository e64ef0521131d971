# python tools/train.py configs/vanilla/gfl_scenes-other_teacher.py
# python tools/train.py configs/bckd/bckd_scenes-60-540.py
_base_ = ['bckd_scenes-60.py']

data_preprocessor = dict(type='kd_plugins.DetDataPreprocessor')
model = dict(pseudo_boxes=dict(score=0.4))
_scenes = _base_.train_dataloader.dataset.dataset
# Eight of the labelled scenes and eight of the others; an epoch goes through the latter.
train_dataloader = dict(
    batch_size=16,
    sampler=dict(
        _delete_=True,
        type='kd_plugins.MultiSourceSampler',
        batch_size=16,
        source_ratio=[1, 1],
        epoch_of=1,
    ),
    dataset=dict(
        _delete_=True,
        type='kd_plugins.WithUnlabelled',
        labelled=_scenes,
        # Their boxes are taken off.
        unlabelled=dict(_scenes, indices=list(range(60, 600))),
    ),
)
# The learning rate is for the eight labelled ones.
auto_scale_lr = dict(base_batch_size=16)
