"""Checkpoints of networks that were published as plain torch modules."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

_CLASSIFIER = re.compile(r'^(fc|linear|classifier|classifier\.0)\.(weight|bias)$')
_TIMM_CLASSIFIER = re.compile(r'^(head\.fc|fc|classifier|head)\.(weight|bias)$')


def classifier_weights(weights: Mapping[str, Tensor], network: nn.Module) -> Mapping[str, Tensor]:
    """Rename the weights of a published network to those of an mmpretrain classifier.

    The networks of mdistiller, RepDistiller, CTKD and torchvision keep their
    layers at the top, and end in a layer ``fc``, ``linear`` or ``classifier``;
    here that is ``head.fc``, and the rest is ``backbone.*``. A backbone whose
    own names differ has a static method ``published_key``; mmpretrain's ResNets
    say ``downsample`` where some say ``shortcut``. timm's networks, inside of
    ``TIMMBackbone``, keep their classifier as ``head.fc``, ``fc``, ``classifier``
    or ``head``, and inside of a backbone of :mod:`kd_plugins.models.foundation` they keep all
    of their names.

    Args:
        weights: A state dict.
        network: The network that is to load it.

    Returns:
        The renamed weights; the same ones where the network is no classifier
        with a backbone and a linear head, or the names are its own already.
    """
    backbone, head = getattr(network, 'backbone', None), getattr(network, 'head', None)
    if hasattr(backbone, 'timm_model') and not any(key.startswith('backbone.') for key in weights):
        return {_timm_key(key): value for key, value in weights.items()}
    if hasattr(backbone, 'normalises') and not any(key.startswith('backbone.') for key in weights):
        return {f'backbone.model.{key}': value for key, value in weights.items()}
    ours = any(key.startswith(('backbone.', 'head.')) for key in weights)
    if ours or backbone is None or not hasattr(head, 'fc'):
        return weights
    rename = getattr(backbone, 'published_key', _resnet_key)

    def name(key: str) -> str:
        match = _CLASSIFIER.match(key)
        return f'head.fc.{match[2]}' if match else f'backbone.{rename(key)}'

    return {name(key): value for key, value in weights.items()}


def _resnet_key(key: str) -> str:
    return key.replace('.shortcut.', '.downsample.')


def _timm_key(key: str) -> str:
    match = _TIMM_CLASSIFIER.match(key)
    return f'head.fc.{match[2]}' if match else f'backbone.timm_model.{key}'
