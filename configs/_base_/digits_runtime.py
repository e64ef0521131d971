_base_ = ['default_runtime.py']

# An epoch takes less time than writing a checkpoint, for which mmengine formats the
# whole config.
default_hooks = dict(checkpoint=dict(interval=25, save_best=None))
