"""The functions that the stand-in for ``mmcv._ext`` has, with mmcv's names and arguments."""

from kd_plugins.compat.operators.attention import (
    ms_deform_attn_backward,
    ms_deform_attn_forward,
)
from kd_plugins.compat.operators.boxes import (
    bbox_overlaps,
)
from kd_plugins.compat.operators.carafe import (
    carafe_backward,
    carafe_forward,
    carafe_naive_backward,
    carafe_naive_forward,
)
from kd_plugins.compat.operators.deform import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from kd_plugins.compat.operators.focal import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from kd_plugins.compat.operators.masked_conv import (
    masked_col2im_forward,
    masked_im2col_forward,
)
from kd_plugins.compat.operators.nms import (
    nms,
    nms_match,
    softnms,
)
from kd_plugins.compat.operators.roi import (
    deform_roi_pool_backward,
    deform_roi_pool_forward,
    roi_align_backward,
    roi_align_forward,
    roi_pool_backward,
    roi_pool_forward,
)
from kd_plugins.compat.operators.sync_bn import (
    sync_bn_backward_data,
    sync_bn_backward_param,
    sync_bn_forward_mean,
    sync_bn_forward_output,
    sync_bn_forward_var,
)

__all__ = [
    'bbox_overlaps',
    'carafe_backward',
    'carafe_forward',
    'carafe_naive_backward',
    'carafe_naive_forward',
    'deform_conv_backward_input',
    'deform_conv_backward_parameters',
    'deform_conv_forward',
    'deform_roi_pool_backward',
    'deform_roi_pool_forward',
    'get_compiler_version',
    'get_compiling_cuda_version',
    'masked_col2im_forward',
    'masked_im2col_forward',
    'modulated_deform_conv_backward',
    'modulated_deform_conv_forward',
    'ms_deform_attn_backward',
    'ms_deform_attn_forward',
    'nms',
    'nms_match',
    'roi_align_backward',
    'roi_align_forward',
    'roi_pool_backward',
    'roi_pool_forward',
    'sigmoid_focal_loss_backward',
    'sigmoid_focal_loss_forward',
    'softmax_focal_loss_backward',
    'softmax_focal_loss_forward',
    'softnms',
    'sync_bn_backward_data',
    'sync_bn_backward_param',
    'sync_bn_forward_mean',
    'sync_bn_forward_output',
    'sync_bn_forward_var',
]


def get_compiler_version() -> str:
    """Say that nothing was compiled."""
    return 'none, operators of kd_plugins'


get_compiling_cuda_version = get_compiler_version
