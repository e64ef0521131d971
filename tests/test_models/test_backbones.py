"""The backbones as parts: maps, widths, gradients, starts and bad input."""

import math

import pytest
import torch
from helpers.published_networks import NETWORKS
from mmengine.registry import MODELS, init_default_scope
from torch import nn


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


def backbone(name, train=False, **changes):
    network = MODELS.build(dict(NETWORKS[name][0], **changes))
    # mmpretrain's own return nothing here.
    network.train(train)
    return network


# Channels and sides of every stage on 32 x 32 pixels, from the papers' tables.
MAPS = {
    'resnet20': [(16, 32), (32, 16), (64, 8)],
    'resnet8x4': [(64, 32), (128, 16), (256, 8)],
    'wrn_16_2': [(32, 32), (64, 16), (128, 8)],
    'preact10': [(64, 32), (128, 16), (256, 8), (512, 4)],
    'pyramid20_24': [(96, 32), (128, 16), (160, 8)],
    'vgg8': [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)],
    'MobileNetV2': [(8, 16), (12, 16), (16, 8), (32, 4), (48, 4), (80, 2), (160, 2), (1280, 2)],
    # Padded by the stem to 34.
    'MobileNetV2 at 64 pixels': [(16, 34), (24, 17), (32, 9), (64, 5), (96, 5), (160, 5), (320, 5)]
    + [(1280, 5)],
    'ShuffleV1': [(240, 16), (480, 8), (960, 4)],
    'ShuffleV2': [(116, 16), (232, 8), (464, 4), (1024, 4)],
    'MobileNetV1': [(32, 16), (64, 16), (128, 8), (128, 8), (256, 4), (256, 4), (512, 2)]
    + [(512, 2)] * 5
    + [(1024, 1)] * 2,
}


@pytest.mark.parametrize('name', MAPS)
def test_stages_have_the_published_channels_and_sides(name):
    network = backbone(name, out_indices=tuple(range(len(MAPS[name]))))
    inputs = torch.randn(2, 3, 32, 32)
    maps = network(inputs)
    assert isinstance(maps, tuple)
    assert [(m.shape[1], m.shape[2]) for m in maps] == MAPS[name]
    last = len(MAPS[name]) - 1
    some = backbone(name, out_indices=(0, last))
    some.load_state_dict(network.state_dict())
    for got, wanted in zip(some(inputs), (maps[0], maps[last]), strict=True):
        assert torch.equal(got, wanted)
    # What a linear head takes by default is the last one.
    assert [m.shape for m in backbone(name)(inputs)] == [maps[last].shape]


@pytest.mark.parametrize('name', MAPS)
def test_every_weight_takes_part(name):
    network = backbone(name, train=True)
    network.init_weights()
    network(torch.randn(4, 3, 32, 32))[-1].square().mean().backward()
    without = [key for key, p in network.named_parameters() if p.grad is None]
    assert not without
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize('name', MAPS)
def test_one_picture_gives_the_maps_it_has_in_a_batch(name):
    network, inputs = backbone(name), torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(network(inputs[1:2])[0], network(inputs)[0][1:2])


@pytest.mark.parametrize(
    'name', ['resnet20', 'wrn_16_1', 'vgg8', 'MobileNetV2', 'ResNet18', 'pyramid20_24']
)
def test_convolutions_start_normal_by_their_outputs(name):
    network = backbone(name, **(dict(zero_init_residual=False) if name == 'ResNet18' else {}))
    network.init_weights()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            size = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            scaled = module.weight.detach() * math.sqrt(size / 2)
            number = scaled.numel()
            assert abs(scaled.std() - 1) < 5 / math.sqrt(2 * number)
            # A uniform start would end at sqrt(3).
            assert number < 1000 or scaled.abs().max() > 2.2
            assert module.bias is None or not module.bias.any()
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and not module.bias.any()


@pytest.mark.parametrize(
    'name', ['ShuffleV1', 'ShuffleV2', 'MobileNetV1', 'MobileNetV2 at 64 pixels', 'preact10']
)
def test_convolutions_start_uniform_by_their_inputs(name):
    network = backbone(name)
    network.init_weights()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            bound = 1 / math.sqrt(module.weight[0].numel())
            weight = module.weight.detach()
            assert weight.abs().max() <= bound
            assert abs(weight.std() * math.sqrt(3) / bound - 1) < 5 / math.sqrt(weight.numel())
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and not module.bias.any()


def test_an_initialisation_of_ones_own_is_obeyed():
    network = backbone('ShuffleV2', init_cfg=dict(type='Constant', layer='Conv2d', val=0.5))
    network.init_weights()
    assert (network.layers[0][0].branch2[0].conv.weight == 0.5).all()


@pytest.mark.parametrize(
    'cfg, says',
    [
        (dict(type='CIFARResNet', depth=18), r'CIFARResNet\.depth=18 is not 6n \+ 2.*ResNet_CIFAR'),
        (dict(type='CIFARWideResNet', depth=28 + 1), r'depth=29 is not 6n \+ 4'),
        (dict(type='CIFARWideResNet', depth=4), r'depth=4 is not 6n \+ 4'),
        (dict(type='CIFARPreActResNet', depth=50), r'depth=50 is not there: give 10, 18 or 34'),
        (dict(type='CIFARPyramidNet', depth=110, alpha=-1), r'alpha=-1 is wrong'),
        (dict(type='CIFARPyramidNet', depth=112, alpha=48), r'depth=112 is not 9n \+ 2'),
        (dict(type='CIFARVGG', depth=12), r'CIFARVGG\.depth=12 is not one of \[8, 11, 13, 16, 19'),
        (dict(type='CIFARVGG', depth=8, num_pools=5), r'num_pools=5 does not fit .* 64 x 64'),
        (dict(type='CIFARVGG', depth=8, out_indices=(5,)), r'out_indices=\(5,\).* from 0 to 4'),
        (dict(type='CIFARMobileNetV2', out_indices=(-1,)), r'out_indices=\(-1,\).* from 0 to 7'),
        (dict(type='MobileNetV1', out_indices=()), r'out_indices=\(\) names a stage .*or none'),
    ],
)
def test_bad_settings_are_named(cfg, says):
    with pytest.raises(ValueError, match=says):
        MODELS.build(dict(cfg, type=f'kd_plugins.{cfg["type"]}'))


def test_a_picture_too_small_to_pool_is_named():
    with pytest.raises(ValueError, match=r'num_pools=3 .* 8 pixels or more .* it has \(4, 32\)'):
        backbone('vgg8')(torch.randn(1, 3, 4, 32))
    assert backbone('vgg8')(torch.randn(1, 3, 8, 8))[0].shape[-2:] == (1, 1)
