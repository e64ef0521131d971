"""Branches of OFA-KD whose weights and inputs are the same on every machine.

It needs torch alone, so that the published code can be run on the same numbers.
"""

import torch

from helpers.maps import wave

CLASSES = 5
#: Stages of a convolutional student: channels and size.
MAPS = {1: (2, 16), 2: (4, 8), 3: (8, 4), 4: (16, 2)}
#: Stages of a transformer: blocks behind them. A class token and 28 x 28 patches.
SIDE, WIDTH = 28, 8


def maps(stage):
    channels, size = MAPS[stage]
    return wave((3, channels, size, size), 1.2, 0.83, 0.1 * stage)


def tokens(number=SIDE**2 + 1, width=WIDTH):
    return wave((2, number, width), 1.1, 0.37, 0.2)


def set_weights(module):
    """By the order of the parameters."""
    with torch.no_grad():
        for i, p in enumerate(module.double().parameters()):
            p.copy_(wave(p.shape, 0.4, 1.1, 0.3 * i) + (1.0 if p.dim() == 1 else 0.0))
    return module


def labels(number):
    return torch.arange(number) * 3 % CLASSES
