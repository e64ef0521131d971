"""Feature maps of two networks, the same on every machine, and what is known of them."""

import math

import torch

from kd_plugins.structures import FeaturesSpec, HeadOutputs, HeadSpec


def wave(shape, scale=1.0, frequency=1.0, phase=0.0, function=torch.sin):
    """The same numbers on every machine."""
    steps = torch.arange(math.prod(shape), dtype=torch.float64)
    return (scale * function(frequency * steps + phase)).view(shape)


def maps(c_s=3, c_t=3, dtype=torch.float64, size=(4, 5), number=2):
    student = wave((number, c_s, *size), 2, 1.3, 0.2)
    teacher = wave((number, c_t, *size), 1.5, 0.7, 0.5, torch.cos)
    return student.to(dtype).requires_grad_(), teacher.to(dtype)


def set_weights(loss):
    """Weights that are the same on every machine."""
    for i, parameter in enumerate(loss.parameters()):
        parameter.data = wave(parameter.shape, 0.3, 1.1, 0.3 * i).to(parameter)
    return loss


def head(*sizes, number=2, anchors=1, dtype=torch.float64):
    """What a teacher's head says of maps of these sizes."""
    level_sizes = tuple(h * w * anchors for h, w in sizes)
    logits = wave((number, sum(level_sizes), 6), 3, 0.9, 0.4).to(dtype)
    return HeadOutputs('AHead', level_sizes, logits, decode=lambda: None)


def specs(channels_S=(3, 3), channels_T=(3, 3), strides_T=(8, 16), sl2=False):
    found = dict(
        preds_S=FeaturesSpec('neck', channels_S, (8, 16)),
        preds_T=FeaturesSpec('neck', channels_T, strides_T),
    )
    if sl2:
        found['head_T'] = HeadSpec('AHead', 6, (8, 16), (1, 1), None, None)
    return found
