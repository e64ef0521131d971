"""A config's pictures, as a network gets them in validation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, init_default_scope
from torch import Tensor, nn
from torch.nn import functional

from kd_plugins.registry import name_of

#: Data sets that keep their pictures in memory, RGB.
IN_MEMORY = ('CIFAR10', 'CIFAR100', 'SVHN', 'STL10')


class Pictures:
    """Pictures of a data set, through its pipeline and a network's preprocessor.

    Args:
        dataset: Built.
        network: Whose ``data_preprocessor`` prepares them, on the processor.
        size: Height and width to pad them to, None for none.
    """

    def __init__(
        self, dataset: Any, network: nn.Module, size: tuple[int, int] | None = None
    ) -> None:
        self.dataset, self.network, self.size = dataset, network, size

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, list[Any]]:
        """Return pictures (N, C, H, W) and their samples."""
        return self.prepare(pseudo_collate([self.dataset[i] for i in indices]))

    def prepare(self, data: Any) -> tuple[Tensor, list[Any]]:
        """Return what the network gets of a batch of a data loader.

        Raises:
            ValueError: If a picture is larger than the size that was asked for, or a
                classifier's smaller, which nothing pads where it is trained.
        """
        preprocessor: Any = self.network.data_preprocessor
        prepared = preprocessor(data, False)
        images, samples = prepared['inputs'], prepared['data_samples']
        if self.size is None:
            return images, samples
        height, width = (goal - had for goal, had in zip(self.size, images.shape[-2:], strict=True))
        if height < 0 or width < 0:
            raise ValueError(
                f'--onnx {self.size[0]} {self.size[1]} is too small: the validation pipeline makes '
                f'a picture of {images.shape[-2]} x {images.shape[-1]}; give a size that holds all.'
            )
        detects = hasattr(self.network, 'bbox_head') or hasattr(self.network, 'roi_head')
        if (height or width) and not detects:
            raise ValueError(
                f'--onnx {self.size[0]} {self.size[1]} is not the size of the validation pictures, '
                f'{images.shape[-2]} x {images.shape[-1]}, and a classifier cannot be measured on '
                'padded ones: give that size, or change the size of the pipelines in the config.'
            )
        value = getattr(preprocessor, 'pad_value', 0)
        images = functional.pad(images, (0, width, 0, height), value=value)
        for sample in samples:
            sample.set_metainfo(dict(batch_input_shape=self.size, pad_shape=self.size))
        return images, samples

    def some(self, count: int) -> list[int]:
        """Return so many indices, evenly over the data set."""
        return np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int).tolist()


def inputs_of(images: Tensor, samples: Sequence[Any]) -> dict[str, Tensor]:
    """Return what a file may take: ``images``, and ``sizes`` without padding, (N, 2)."""
    whole = tuple(images.shape[-2:])
    sizes = [sample.metainfo.get('img_shape', whole)[:2] for sample in samples]
    return dict(images=images, sizes=torch.tensor(sizes))


def validation_pictures(
    cfg: Config, network: nn.Module, size: tuple[int, int] | None = None
) -> Pictures:
    """Return the pictures of a config's validation set.

    Raises:
        ValueError: If it has none.
    """
    return Pictures(_build(cfg, _settings(cfg, 'val_dataloader')), network, size)


def calibration_pictures(
    cfg: Config, network: nn.Module, size: tuple[int, int] | None = None
) -> Pictures:
    """Return the pictures of a config's training set, prepared as for validation.

    Of several data sets in one, those of the first. Where one of both sets has its
    pictures in memory and the other in files, they are prepared as for training.

    Raises:
        ValueError: If it has none.
    """
    settings = _innermost(_settings(cfg, 'train_dataloader'))
    pipeline = _innermost(_settings(cfg, 'val_dataloader')).pipeline
    # Files beside pictures in memory are prepared as their own pipeline does it.
    if _reads(pipeline) == _reads(settings.pipeline):
        settings.update(pipeline=pipeline)
    return Pictures(_build(cfg, settings), network, size)


def channel_order(cfg: Config) -> str | None:
    """Return the order of channels that a config's preprocessor gets.

    Returns:
        ``'BGR'`` or ``'RGB'``, of the first of validation, test and training that the
        config has; None where its data set and pipeline do not tell.
    """
    loaders = (cfg.get(f'{phase}_dataloader') for phase in ('val', 'test', 'train'))
    settings = next((_innermost(each.dataset) for each in loaders if each), None)
    if settings is None:
        return None
    order = 'RGB' if name_of(settings.type) in IN_MEMORY else None
    for step in settings.get('pipeline') or ():
        name = name_of(step['type'])
        if _reads([step]) and order is None:
            order = step.get('channel_order', 'bgr').upper()
        swaps = dict(NumpyToPIL='to_rgb', ToPIL='to_rgb', PILToNumpy='to_bgr', ToNumpy='to_bgr')
        if order is not None and name in swaps and step.get(swaps[name]):
            order = order[::-1]
    return order


def _reads(pipeline: Sequence[Any]) -> bool:
    """Whether a pipeline reads pictures from files."""
    return any(name_of(step['type']).startswith('LoadImage') for step in pipeline)


def _innermost(settings: Any) -> Any:
    """Return the settings of a data set within whatever wraps it, of several the first."""
    while True:
        several = settings.get('datasets') or [None]
        within = settings.get('dataset') or settings.get('labelled') or several[0]
        if within is None:
            return settings
        settings = within


def _settings(cfg: Config, loader: str) -> Any:
    if cfg.get(loader) is None:
        raise ValueError(f'the config has no {loader}, whose pictures are needed: give one.')
    return copy.deepcopy(cfg[loader].dataset)


def _build(cfg: Config, settings: Any) -> Any:
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    dataset = DATASETS.build(settings)
    if hasattr(dataset, 'full_init'):
        dataset.full_init()
    return dataset
