# python tools/train.py configs/eekd/even_digits_teacher.py
_base_ = ['../vanilla/digits_teacher.py']

default_hooks = dict(even=dict(type='kd_plugins.EvenCheckpointHook', number=5))
