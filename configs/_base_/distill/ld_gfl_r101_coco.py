# Upstream's LD configs name the teacher's config by a path that counts from a clone of
# mmdetection; this one is the same file where mmdet is installed.
_base_ = []

# After _base_, or mmengine takes the file for one of its other kind of config.
from importlib.util import find_spec  # noqa: E402

teacher_config = (
    find_spec('mmdet').submodule_search_locations[0]
    + '/.mim/configs/gfl/gfl_r101_fpn_ms-2x_coco.py'
)
