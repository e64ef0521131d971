"""Convolution at chosen places only (guided anchoring, Wang et al., CVPR 2019)."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Write what the kernel sees at every place.

    Args:
        im: One picture, (1, C, H, W).
        mask_h_idx: Rows of the places, (M,).
        mask_w_idx: Columns of the places, (M,).
        col: Where the result goes, (C * kernel_h * kernel_w, M).
        kernel_h: Height of the kernel; ``kernel_w`` its width.
        pad_h: Zeros above and below; ``pad_w`` at both sides.
    """
    height, width = im.shape[2:]
    y = torch.arange(kernel_h, device=im.device).view(-1, 1, 1) - pad_h + mask_h_idx
    x = torch.arange(kernel_w, device=im.device).view(1, -1, 1) - pad_w + mask_w_idx
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    seen = im[0][:, y.clamp(0, height - 1), x.clamp(0, width - 1)]
    col.copy_(torch.where(inside, seen, 0).flatten(0, 2))


def masked_col2im_forward(
    col: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    im: Tensor,
    height: int,
    width: int,
    channels: int,
) -> None:
    """Write columns, (channels, M), to their places in a picture, (1, channels, H, W)."""
    im[0][:, mask_h_idx, mask_w_idx] = col
