"""Numbers that are the same on every machine."""

import math

import torch


def wave(shape, amplitude, frequency, phase):
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    return (amplitude * torch.sin(frequency * i + phase)).view(shape)
