"""The functions that the stand-in for ``mmcv._ext`` has, with mmcv's names and arguments."""

from kd_plugins.compat.operators.focal import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from kd_plugins.compat.operators.nms import nms, nms_match, softnms
from kd_plugins.compat.operators.roi import roi_align_backward, roi_align_forward

__all__ = [
    'nms',
    'nms_match',
    'roi_align_backward',
    'roi_align_forward',
    'sigmoid_focal_loss_backward',
    'sigmoid_focal_loss_forward',
    'softmax_focal_loss_backward',
    'softmax_focal_loss_forward',
    'softnms',
]
