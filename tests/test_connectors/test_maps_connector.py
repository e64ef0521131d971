"""The layers between maps of other channels."""

import pytest
import torch
from helpers.maps import maps
from torch import nn

from kd_plugins.connectors import MapsConnector
from kd_plugins.structures import FeaturesSpec


def test_a_level_is_a_matrix_and_a_norm_and_one_of_the_same_channels_stays():
    connector = MapsConnector([3, 3], [6, 3], norm_cfg=dict(type='BN')).double()
    fine, coarse = maps()[0].detach(), maps(size=(2, 3))[0].detach()
    out, same = connector.forward([fine, coarse])
    assert same is coarse
    weight = connector.levels[0].conv.weight[:, :, 0, 0]
    product = torch.zeros(2, 6, 4, 5, dtype=torch.float64)
    for o in range(6):
        for i in range(3):
            product[:, o] += weight[o, i].item() * fine[:, i]
    mean, std = product.mean((0, 2, 3), keepdim=True), product.std((0, 2, 3), False, keepdim=True)
    torch.testing.assert_close(out, (product - mean) / (std**2 + 1e-5).sqrt(), rtol=1e-8, atol=1e-8)
    assert not any(isinstance(m, nn.ReLU) for m in connector.modules())


def test_without_a_norm_it_has_a_bias():
    connector = MapsConnector([3], [6]).double()
    assert {*dict(connector.named_parameters())} == {
        'levels.0.conv.weight', 'levels.0.conv.bias'
    }  # fmt: skip


@pytest.mark.parametrize('key', ['in_channels', 'out_channels'])
@pytest.mark.parametrize('value', [[], 3, [0], [2.0], '3', [3, 3]])
def test_bad_channels_are_refused_by_name(key, value):
    with pytest.raises(ValueError, match=r'MapsConnector\.\w+_channels='):
        MapsConnector(**{'in_channels': [3], 'out_channels': [6], key: value})


def test_other_maps_are_refused_before_and_in_training():
    connector = MapsConnector([3, 3], [6, 6])
    spec = FeaturesSpec('neck', (3, 3), (8, 16))
    assert connector.check_spec('key', spec).channels == (6, 6)
    assert connector.check_spec('key', None) is None
    with pytest.raises(ValueError, match=r'key\.in_channels=\[3, 3\] does not fit neck'):
        connector.check_spec('key', FeaturesSpec('neck', (4, 4), (8, 16)))
    with pytest.raises(ValueError, match=r'in_channels=\[3, 3\] does not fit maps of shape'):
        connector.forward([torch.ones(1, 3, 2, 2)])
