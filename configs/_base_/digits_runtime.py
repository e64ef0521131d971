_base_ = ['default_runtime.py']

# An epoch takes a tenth of a second, and so does writing a checkpoint.
default_hooks = dict(checkpoint=dict(interval=10))
