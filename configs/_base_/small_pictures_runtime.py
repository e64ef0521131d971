_base_ = ['default_runtime.py']

# An epoch takes seconds on a GPU, and so would its checkpoint.
default_hooks = dict(checkpoint=dict(interval=10))
