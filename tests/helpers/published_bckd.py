"""Predictions and targets that BCKD's published code was run on, and what it said.

The numbers are those of ``LDHead.loss_single`` with ``NovelKDLoss`` and
``GIoULoss`` of github.com/TinyTigerPan/BCKD at 121c9aa (mmdet 2.28), with the
weights of its configs, in float64 on torch 2.1.2, from the tensors made here.
"""

import torch

CLASSES, BINS, IMAGES = 3, 17, 2
#: Height and width of the levels, and their strides.
LEVELS = (((4, 6), 8), ((2, 3), 16), ((1, 2), 32))


def wave(*shape, seed):
    """Numbers in [-1, 1] that no generator of random numbers makes."""
    steps = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return torch.sin(steps * steps * 0.37 + steps * (1.3 + seed) + seed).reshape(shape)


def predictions(seed):
    """Class logits (N, C, H, W) and bin logits (N, 4 * bins, H, W) of every level."""
    logits = [3 * wave(IMAGES, CLASSES, *size, seed=seed + i) - 1
              for i, (size, _) in enumerate(LEVELS)]  # fmt: skip
    bins = [4 * wave(IMAGES, 4 * BINS, *size, seed=seed + i + 0.5)
            for i, (size, _) in enumerate(LEVELS)]  # fmt: skip
    return logits, bins


def targets(case):
    """Labels and label weights of every level, (N, H * W)."""
    labels = [torch.full((IMAGES, h * w), CLASSES) for (h, w), _ in LEVELS]
    weights = [torch.ones(IMAGES, h * w, dtype=torch.float64) for (h, w), _ in LEVELS]
    # An ignored anchor, and one of the padding.
    weights[0][0, 3] = weights[0][1, 23] = weights[1][1, 5] = 0
    if case in ('everywhere', 'a level without'):
        labels[0][0, 7], labels[0][0, 8], labels[0][1, 9] = 0, 2, 1
        labels[2][1, 1] = 2
    if case == 'everywhere':
        labels[1][0, 2] = labels[1][1, 0] = 1
    if case == 'an empty image':
        labels[0][1, 2:5] = 1
    return labels, weights


def anchors(size, stride):
    """Square anchors of 8 strides around the corners of the grid, (H * W, 4)."""
    h, w = size
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing='ij')
    centres = torch.stack([x, y], -1).reshape(-1, 2).double() * stride
    return torch.cat([centres - 4 * stride, centres + 4 * stride], 1)


CASES = ('everywhere', 'a level without', 'an empty image', 'nothing')
