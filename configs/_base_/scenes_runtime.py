_base_ = ['mmdet::_base_/default_runtime.py']
custom_imports = dict(imports=['kd_plugins'], allow_failed_imports=False)

# mmengine formats the whole config for every checkpoint, which takes as long as an
# eighth of an epoch here.
default_hooks = dict(checkpoint=dict(interval=2, max_keep_ckpts=2), logger=dict(interval=25))
# With the seed below, a resumed run ends in the weights of an undisturbed one.
custom_hooks = [dict(type='kd_plugins.SeedByProgressHook')]
randomness = dict(seed=0)
