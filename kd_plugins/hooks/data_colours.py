"""Whether all pictures that one preprocessor is given have their colours in one order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kd_plugins.hooks.data_classes import joined_datasets
from kd_plugins.registry import name_of
from kd_plugins.views.dataset import without_views

#: Datasets that keep their pictures in memory, as RGB.
_IN_MEMORY = {'CIFAR10', 'SVHN', 'STL10'}
#: Steps that exchange red and blue where the setting beside is true.
_EXCHANGING = dict(NumpyToPIL='to_rgb', PILToNumpy='to_bgr')
_OTHER = dict(bgr='rgb', rgb='bgr')


def check_colours(train: Any, val: Any) -> None:
    """Refuse pictures as RGB beside others as BGR, which one preprocessor cannot tell apart.

    So it is where real pictures of CIFAR lie in memory, and others beside them, or in
    their place, are read from files.

    Args:
        train: The loader of the training.
        val: That of the validation, or None.

    Raises:
        ValueError: Naming both datasets.
    """
    known: dict[str, tuple[str, Any]] = {}
    for split, loader in (('train', train), ('val', val)):
        for dataset in joined_datasets(without_views(getattr(loader, 'dataset', None))):
            for order in _order_of(dataset):
                known.setdefault(order, (split, dataset))
    if len(known) < 2:
        return
    said = [
        f'{type(dataset).__name__} ({split}_dataloader) gives pictures as {order.upper()}'
        for order, (split, dataset) in known.items()
    ]
    raise ValueError(
        f'{" and ".join(said)}, and one data_preprocessor takes both: read files with '
        "dict(type='kd_plugins.LoadImageFromFile', channel_order='rgb') where others lie in "
        'memory as RGB.'
    )


def _order_of(dataset: Any) -> Iterator[str]:
    """Yield 'rgb' or 'bgr' where it can be told how a dataset gives its pictures."""
    steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', ())
    reading = [step for step in steps if name_of(type(step)).startswith('LoadImage')]
    kinds = {kind.__name__ for kind in type(dataset).__mro__}
    if reading:
        if getattr(reading[0], 'color_type', 'color') != 'color':
            return
        order = getattr(reading[0], 'channel_order', 'bgr')
    elif kinds & _IN_MEMORY:
        order = 'rgb'
    else:
        return
    for step in steps:
        if getattr(step, _EXCHANGING.get(name_of(type(step)), ''), False):
            order = _OTHER[order]
    yield order
