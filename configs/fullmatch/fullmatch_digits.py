# python tools/train.py configs/fullmatch/fullmatch_digits.py
# The 200 labelled scans of the other methods, and all 1,078 without labels beside them.
_base_ = [
    '../_base_/datasets/digits.py',
    '../_base_/schedules/digits_bs32.py',
    '../_base_/digits_runtime.py',
    '../_base_/distill/fixmatch.py',
    '../_base_/distill/fullmatch.py',
    '../_base_/models/digits.py',
]

data_preprocessor = dict(type='kd_plugins.ClsDataPreprocessor')
_labelled = _base_.train_dataloader.dataset
_strong = [
    dict(type='RandomCrop', crop_size=8, padding=1),
    dict(type='Rotate', magnitude_range=(0, 30), magnitude_std='inf', pad_val=0, prob=0.5),
    dict(type='Cutout', shape=4, pad_val=0, prob=1.0),
]
train_dataloader = dict(
    batch_size=64,
    dataset=dict(
        _delete_=True,
        type='kd_plugins.WithUnlabelled',
        labelled=_labelled,
        unlabelled=dict(
            type='kd_plugins.Digits',
            split='train',
            pipeline=[
                dict(type='kd_plugins.StrongView', transforms=_strong),
                dict(type='RandomCrop', crop_size=8, padding=1),
                dict(type='PackInputs', algorithm_keys=['strong_view']),
            ],
        ),
    ),
    sampler=dict(
        _delete_=True, type='kd_plugins.MultiSourceSampler', batch_size=64, source_ratio=[1, 3]
    ),
)
model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.student,
    teacher=None,
    distiller=dict(
        distill_losses=dict(_base_.distiller.distill_losses, **_base_.fullmatch.distill_losses),
        loss_forward_mappings=dict(
            _base_.distiller.loss_forward_mappings, **_base_.fullmatch.loss_forward_mappings
        ),
        student_recorders=_base_.distiller.student_recorders,
        connectors=_base_.distiller.connectors,
    ),
)
del _base_.fullmatch
