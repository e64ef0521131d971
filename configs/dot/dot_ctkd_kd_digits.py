# python tools/train.py configs/vanilla/digits_teacher.py
# python tools/train.py configs/dot/dot_ctkd_kd_digits.py
_base_ = ['../ctkd/ctkd_kd_digits.py']

# Half the rate and a smaller delta than the papers': this training has 700 steps.
optim_wrapper = dict(type='kd_plugins.DOTOptimWrapper', delta=0.05, optimizer=dict(lr=0.05))
