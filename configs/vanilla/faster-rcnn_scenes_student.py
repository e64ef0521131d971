# python tools/make_digit_scenes.py
# python tools/train.py configs/vanilla/faster-rcnn_scenes_student.py
_base_ = [
    '../_base_/models/faster-rcnn_scenes.py',
    '../_base_/datasets/digit_scenes.py',
    '../_base_/schedules/scenes.py',
    '../_base_/scenes_runtime.py',
]
model = _base_.student
