"""Our networks against what the published ones gave."""

import argparse

import numpy as np
import pytest
import torch
from helpers.published_networks import NETWORKS, classifier, digest, pictures, published_key, weight
from mmengine.registry import MODELS, init_default_scope

from kd_plugins.files.weights import load_weights


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


def checkpoint(network, name):
    """The published network's state dict, as its own code would have saved it."""
    ours = {published_key(key, name): value.shape for key, value in network.state_dict().items()}
    return {key: weight(key, shape) for key, shape in ours.items()}


@pytest.mark.parametrize('name', NETWORKS)
def test_parameters_keys_and_logits_are_the_published_ones(name, tmp_path):
    _, _, size, _, parameters, keys, (first, last, magnitude) = NETWORKS[name]
    network = MODELS.build(classifier(name)).double().eval()
    assert sum(p.numel() for p in network.parameters()) == parameters
    weights = checkpoint(network, name)
    assert digest(weights) == keys
    torch.save(dict(model=weights, epoch=240), tmp_path / 'ckpt_epoch_240.pth')
    load_weights(network, str(tmp_path / 'ckpt_epoch_240.pth'))
    with torch.no_grad():
        logits = network(pictures(size))
    got = torch.stack([logits[0, 0], logits[1, -1], logits.abs().mean()])
    wanted = torch.tensor([first, last, magnitude], dtype=torch.float64)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=0)


FORMS = {
    'bare': lambda weights: weights,
    'RepDistiller while training': lambda weights: dict(
        epoch=240, model=weights, accuracy=torch.tensor(72.34), optimizer=dict(state={})
    ),
    'RepDistiller at the end': lambda weights: dict(
        opt=argparse.Namespace(model='wrn_40_2', lr_decay_epochs=[150]), model=weights
    ),
    'mdistiller': lambda weights: dict(model=weights, best_acc=np.float64(75.61)),
    'DataParallel': lambda weights: dict(model={f'module.{k}': v for k, v in weights.items()}),
}


@pytest.mark.parametrize('form', FORMS)
def test_every_published_form_of_checkpoint_loads(form, tmp_path):
    network = MODELS.build(classifier('wrn_16_1'))
    weights = checkpoint(network, 'wrn_16_1')
    torch.save(FORMS[form](weights), tmp_path / 'teacher.pth')
    load_weights(network, str(tmp_path / 'teacher.pth'))
    for key, value in network.state_dict().items():
        wanted = weights[published_key(key, 'wrn_16_1')]
        assert torch.equal(value, wanted.to(value.dtype)), key


def test_torchvision_checkpoints_load(tmp_path):
    from torchvision.models import resnet18

    theirs = resnet18().eval()
    torch.save(theirs.state_dict(), tmp_path / 'resnet18.pth')
    ours = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='ResNet', depth=18),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=1000, in_channels=512),
        )
    ).eval()
    load_weights(ours, str(tmp_path / 'resnet18.pth'))
    inputs = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours(inputs), theirs(inputs))


@pytest.mark.parametrize(
    'other, says',
    [
        ('resnet14', r'missing \(first: backbone\.layer1\.2\.conv1\.weight\)'),
        ('resnet32', r'unknown to it \(first: backbone\.layer1\.3\.conv1\.weight\)'),
        ('vgg8', r'missing \(first: backbone\.conv1\.weight\).*first: backbone\.block0\.0\.weight'),
        ('resnet8x4', r'another shape \(first: backbone\.conv1\.weight is \(32, 3, 3, 3\)'),
    ],
)
def test_a_checkpoint_of_another_network_is_refused_by_its_first_key(other, says, tmp_path):
    weights = checkpoint(MODELS.build(classifier(other)), other)
    torch.save(dict(model=weights), tmp_path / 'teacher.pth')
    network = MODELS.build(classifier('resnet20'))
    with pytest.raises(ValueError, match=r"teacher\.pth' does not fit the teacher.*" + says):
        load_weights(network, str(tmp_path / 'teacher.pth'))


def test_a_checkpoint_of_other_classes_is_refused(tmp_path):
    weights = checkpoint(MODELS.build(classifier('vgg8', 10)), 'vgg8')
    torch.save(weights, tmp_path / 'teacher.pth')
    with pytest.raises(
        ValueError, match=r'head\.fc\.weight is \(10, 512\) in the file and \(100, '
    ):
        load_weights(MODELS.build(classifier('vgg8')), str(tmp_path / 'teacher.pth'))
