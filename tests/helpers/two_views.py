"""Labelled pictures beside unlabelled ones in two views, and what learns of them."""

import math

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmpretrain.structures import DataSample

from helpers import ROOT, algorithm_cfg
from helpers.networks import cnn, resnet
from helpers.tiny_pictures import HalfLabelled

KINDS = ('fixmatch', 'flexmatch', 'fullmatch', 'fullflex')


def numbers(shape, phase, scale):
    """The same numbers on every machine, as the published code was run on."""
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    return (scale * torch.sin(1.7 * i * (i % 7 + 1) + phase)).reshape(shape)


def distiller_of(kind, cutoff, num_unlabelled):
    """The distiller of a method's configs."""
    parts = Config.fromfile(ROOT / 'configs/_base_/distill/fixmatch.py').distiller
    if 'full' in kind:
        more = Config.fromfile(ROOT / 'configs/_base_/distill/fullmatch.py').fullmatch
        for key, value in more.items():
            parts[key].update(value)
    labels = parts.connectors.pseudo_labels
    labels.cutoff = cutoff
    if 'flex' in kind:
        labels.update(type='kd_plugins.FlexiblePseudoLabels', num_unlabelled=num_unlabelled)
    return parts


def two_views(kind='fullflex', cutoff=0.3, num_unlabelled=6, student=None, **changes):
    """Config of an algorithm of a small network without batch statistics.

    Args:
        kind: One of :data:`KINDS`.
        cutoff: The probability from which on a label is sure.
        num_unlabelled: Pictures of the unlabelled dataset.
        student: Its config; a ResNet-8 by default.
        changes: Of the algorithm.
    """
    cfg = algorithm_cfg(
        # Batch statistics would tell the samples of a batch from each other.
        architecture=dict(student or resnet(norm_eval=True), _scope_='mmpretrain'),
        teacher=None,
        distiller=distiller_of(kind, cutoff, num_unlabelled),
        data_preprocessor=dict(type='kd_plugins.ClsDataPreprocessor', mean=[0.5], std=[2.0]),
    )
    return cfg | changes


def wide(depth=10, widen_factor=1, classes=5, **changes):
    """Config of a classifier with a network of FixMatch's."""
    backbone = dict(
        type='kd_plugins.FixMatchWideResNet', depth=depth, widen_factor=widen_factor, **changes
    )
    last = changes.get('num_stages', 3) - 1
    return cnn(backbone, 16 * 2**last * widen_factor, classes)


def fill(network):
    """Give a classifier the weights that the published one was run with."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            key = name.removeprefix('backbone.')
            phase, shape = sum(map(ord, key)) % 97, parameter.shape
            if 'bn' in key:
                parameter.copy_(numbers(shape, phase, 0.1) + ('weight' in key))
            else:
                scale = 1.2 / math.sqrt(parameter[0].numel()) if parameter.dim() > 1 else 0.1
                parameter.copy_(numbers(shape, phase, scale))
    return network


@DATASETS.register_module(force=True)
class TwoViews(HalfLabelled):
    """The same pictures, the unlabelled half in a strong view, too, and numbered."""

    def __getitem__(self, index):
        data = super().__getitem__(index)
        if index in self.datasets[1]:
            sample = data['data_samples']
            sample.set_field(data['inputs'].flip(2) * 1.3, 'strong_view')
            sample.set_metainfo(dict(sample_idx=index - len(self.datasets[0])))
        return data


def batch(labels, unlabelled, size=8, offset=0.0):
    """A batch as the data loader gives it, in float64.

    Args:
        labels: Classes of the labelled pictures.
        unlabelled: Numbers of the unlabelled pictures.
        size: Pixels of a side.
        offset: Makes other pictures.
    """
    samples = [DataSample().set_gt_label(y) for y in labels]
    shape = (3, size, size)
    pictures = [numbers(shape, 0.3 * y + offset, 1.0) for y in labels]
    for i in unlabelled:
        sample = DataSample(metainfo=dict(sample_idx=i))
        # Darker and brighter ones.
        plain = numbers((3, 1, 1), i, 2.0) + numbers(shape, 5.0 + i, 1.0)
        sample.set_field(plain + numbers(shape, 2.0 + 3 * i, 1.3), 'strong_view')
        samples.append(sample)
        pictures.append(plain + 0.1 * math.sin(i + offset))
    return dict(inputs=torch.stack(pictures), data_samples=samples)
