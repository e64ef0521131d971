"""What upstream versions need, in one place: a file for each upstream package.

Nothing else in kd_plugins knows the versions of upstream packages or their faults.
"""

from __future__ import annotations

import warnings

from kd_plugins.compat import mmcv, mmdet, mmengine, mmpretrain, mmrazor, moved, onedl, operators
from kd_plugins.compat.torch import (
    allow_two_backward_passes,
    bfloat16_gradient_is_wrong,
    onnx_exporter,
)

__all__ = [
    'allow_two_backward_passes',
    'bfloat16_gradient_is_wrong',
    'install',
    'onnx_exporter',
]


def install() -> None:
    """Do what has to be done before upstream is imported; calling it twice is fine."""
    # mmcv whose operators do not load warns at every import of what classification
    # does not use.
    warnings.filterwarnings('ignore', 'Fail to import ``MultiScaleDeformableAttention``')
    moved.install()
    operators.install()
    mmcv.install()
    mmdet.install()
    mmengine.install()
    mmpretrain.install()
    mmrazor.install()
    onedl.install()
