# bash tools/dist_train.sh configs/dot/dot_ld_gflv1_r101_r18_fpn_1x_coco.py 8
_base_ = ['mmdet::ld/ld_r18-gflv1-r101_fpn_1x_coco.py']

# After _base_, or mmengine takes the file for one of its other kind of config.
from importlib.util import find_spec  # noqa: E402

custom_imports = dict(imports=['kd_plugins'], allow_failed_imports=False)

# Upstream's own path of the teacher's config counts from a clone of mmdetection.
model = dict(
    teacher_config=find_spec('mmdet').submodule_search_locations[0]
    + '/.mim/configs/gfl/gfl_r101_fpn_ms-2x_coco.py'
)

# mmdet's own detector and head; DOT finds the distillation by its key, loss_ld.
optim_wrapper = dict(type='kd_plugins.DOTOptimWrapper', delta=0.075)
