"""Small mmpretrain classifiers, convolutional and of patches, and a timm to read from."""

import inspect
import sys
from types import ModuleType

import torch
from mmengine.registry import MODELS, DefaultScope
from torch import nn

ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)


def cnn(backbone, channels, classes=5, neck=None):
    return dict(
        type='ImageClassifier',
        backbone=backbone,
        neck=neck or dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=classes, in_channels=channels),
    )


def vit(kind='VisionTransformer', classes=5, head='VisionTransformerClsHead', **backbone):
    return dict(
        type='ImageClassifier',
        backbone=dict(dict(type=kind, arch=ARCH, img_size=32, patch_size=8), **backbone),
        neck=None,
        head=dict(type=head, num_classes=classes, in_channels=16),
    )


def distilled(classes=5, **changes):
    cfg = vit('DistilledVisionTransformer', classes, 'kd_plugins.DistilledViTHead', out_type='raw')
    cfg['head'].update(changes)
    return cfg


def swin(classes=5, **backbone):
    """A narrow Swin transformer, whose stages give tokens and their height and width."""
    small = dict(arch=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1]), img_size=64,
                 window_size=2)  # fmt: skip
    return cnn(dict(type='SwinTransformer', **{**small, **backbone}), 64, classes)


def resnet(classes=5, **changes):
    backbone = dict(type='kd_plugins.CIFARResNet', depth=8)
    return cnn(dict(backbone, **changes), 64, classes)


def build(cfg):
    """Build a classifier with weights that are not all alike, in eval mode."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        network = MODELS.build(cfg)
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.LayerNorm, nn.BatchNorm2d)):
            for parameter in module.parameters(recurse=False):
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.data.add_(0.3 * noise)
    return network.eval()


class StandInNetwork(nn.Module):
    """What timm.create_model gives: features where its own classifier is reset."""

    def __init__(self, width):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 8, stride=8)
        self.head = nn.Linear(width, 7)
        self.pool = 'avg'

    def reset_classifier(self, num_classes, global_pool):
        self.head, self.pool = nn.Identity(), global_pool

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head(x.mean(dim=(2, 3)) if self.pool else x)


def install_timm(monkeypatch, width=3024):
    """Let mmpretrain's TIMMBackbone run on a stand-in, whether timm is installed or not."""
    from mmpretrain.models.backbones import TIMMBackbone

    timm = ModuleType('timm')
    timm.create_model = lambda **kwargs: StandInNetwork(width)
    monkeypatch.setitem(sys.modules, 'timm', timm)
    undecorated = inspect.unwrap(TIMMBackbone.__init__)
    monkeypatch.setattr(TIMMBackbone, '__init__', undecorated)


def remove_timm(monkeypatch):
    """Let mmpretrain's TIMMBackbone find no timm, whether it is installed or not."""
    from mmpretrain.models.backbones import TIMMBackbone
    from mmpretrain.utils import dependency

    monkeypatch.setattr(dependency, 'satisfy_requirement', lambda name: False)
    init = dependency.require('timm')(inspect.unwrap(TIMMBackbone.__init__))
    monkeypatch.setattr(TIMMBackbone, '__init__', init)
