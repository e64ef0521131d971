# python tools/train.py configs/vanilla/digits_teacher.py
# python tools/train.py configs/dot/dot_kd_digits.py
_base_ = ['../kd/kd_digits.py']

optim_wrapper = dict(type='kd_plugins.DOTOptimWrapper', delta=0.075)
