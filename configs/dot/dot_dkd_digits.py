# python tools/train.py configs/vanilla/digits_teacher.py
# python tools/train.py configs/dot/dot_dkd_digits.py
_base_ = ['../dkd/dkd_digits.py']

optim_wrapper = dict(type='kd_plugins.DOTOptimWrapper', delta=0.075)
