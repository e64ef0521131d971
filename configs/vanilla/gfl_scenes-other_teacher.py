# python tools/make_digit_scenes.py
# python tools/make_digit_scenes.py --out data/digit_scenes_other --seed 1
# python tools/train.py configs/vanilla/gfl_scenes-other_teacher.py
_base_ = ['gfl_scenes_teacher.py']

# Scenes that no student sees, so that what it learns of others is no label that the teacher saw.
train_dataloader = dict(dataset=dict(data_root='data/digit_scenes_other/'))
