_base_ = ['mmdet::_base_/default_runtime.py', 'detection_runtime.py']

default_hooks = dict(logger=dict(interval=25), **_base_.safe_hooks)
# mmengine formats the whole config for every checkpoint, which takes as long as an
# eighth of an epoch here.
default_hooks['checkpoint'].update(interval=2, max_keep_ckpts=2)
