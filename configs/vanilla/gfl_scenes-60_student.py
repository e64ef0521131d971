# python tools/make_digit_scenes.py
# python tools/train.py configs/vanilla/gfl_scenes-60_student.py
_base_ = ['gfl_scenes_student.py']

# An epoch has as many iterations as one through the 540 others has, eight at a time.
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='RepeatDataset',
        times=9,
        dataset=dict(**_base_.train_dataloader.dataset, indices=60),
    ),
)
