"""What an ONNX file says of the pictures that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from kd_plugins.networks import normalisation, swaps_channels


def metadata_of(
    network: nn.Module,
    dataset_meta: Mapping[str, Any] | None = None,
    loaded: str | None = 'BGR',
) -> dict[str, str]:
    """Return what a network's pictures need, as text.

    Args:
        network: With the preprocessor that trained it.
        dataset_meta: What its checkpoint says of the data.
        loaded: The order of the channels that its preprocessor gets: ``'BGR'``, as mmcv
            reads, ``'RGB'``, or None where it is not known.

    Returns:
        ``mean`` and ``std``, a number a channel; where there are several, their
        ``channels`` (``'RGB'``, ``'BGR'``), unless their order is not known;
        ``pad_value`` and ``pad_size_divisor`` of a detector; ``classes``, one a line.
    """
    preprocessor: Any = network.data_preprocessor
    mean, std = normalisation(preprocessor)
    said = dict(mean=_text(mean.flatten().tolist()), std=_text(std.flatten().tolist()))
    if loaded is not None and channels_of(network) == 3:
        said['channels'] = loaded[::-1] if swaps_channels(preprocessor) else loaded
    if hasattr(network, 'bbox_head') or hasattr(network, 'roi_head'):
        for key in ('pad_value', 'pad_size_divisor'):
            said[key] = f'{getattr(preprocessor, key, 0):g}'
    classes = (dataset_meta or {}).get('classes') or (dataset_meta or {}).get('CLASSES')
    if classes:
        said['classes'] = '\n'.join(map(str, classes))
    return said


def channels_of(network: nn.Module) -> int:
    """Return how many channels a network's pictures have."""
    channels = normalisation(network.data_preprocessor)[0].numel()
    if channels > 1:
        return channels
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
        if type(module).__name__ == 'Focus':  # YOLOX's, whose convolution gets four places as one
            return module.conv.conv.in_channels // 4
    return channels


def _text(values: list[float]) -> str:
    return ' '.join(f'{value:g}' for value in values)
