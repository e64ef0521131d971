"""CTC's configs against the published settings."""

import math

import pytest
import torch
from helpers import ROOT
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

# README.md and train_ctc.py of DTennant/dt-tradeoff at a36516be7d83: alpha, the temperatures
# of both stages; beta 1, momenta 0.9, 16,384 negatives and 128 channels are common.
PRESETS = {'transferability': (0.5, 0.1, 0.1), 'discriminability': (0.1, 0.5, 0.4)}


def load(preset):
    init_default_scope('mmpretrain')
    return Config.fromfile(ROOT / f'configs/ctc/ctc_{preset}_resnext32-16x4d_1xb64_cifar100.py')


@pytest.mark.parametrize('preset', PRESETS)
def test_presets_are_as_published(preset):
    cfg = load(preset)
    term = MODELS.build(dict(cfg.model.distiller.distill_losses.loss_ctc))
    assert (term.alpha, term.instance_tau, term.nce_tau) == PRESETS[preset]
    assert (term.beta, term.instance_momentum, term.nce_momentum) == (1.0, 0.9, 0.9)
    assert (term.samples, term.negatives, term.embed_S.out_features) == (50000, 16384, 128)
    assert dict(cfg.optim_wrapper.optimizer) == dict(
        type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-3
    )
    assert (cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size) == (300, 64)
    assert cfg.param_scheduler is None
    hook = dict(cfg.default_hooks.ctc)
    assert hook == dict(type='kd_plugins.CTCHook', stage_two_epoch=200)
    assert cfg.model.architecture.head.loss.get('loss_weight', 1.0) == 1.0


def wave(shape, scale, frequency, phase):
    steps = torch.arange(math.prod(shape), dtype=torch.float64)
    return (scale * torch.sin(frequency * steps + phase)).view(shape)


def test_the_network_is_the_published_one():
    """Parameters and logits recorded from resnext32_16x4d of models/resnext.py, as above."""
    network = MODELS.build(load('transferability').model.architecture).double().train()
    parameters = [*network.parameters()]
    assert sum(p.numel() for p in parameters) == 1112004
    for i, p in enumerate(parameters):
        if p.dim() > 1:
            p.data = wave(p.shape, 1 / math.sqrt(p[0].numel()), 0.7, i)
        else:
            p.data = 1 + wave(p.shape, 0.2, 0.9, i)
    logits = network(wave((2, 3, 32, 32), 1, 0.37, 0.2))
    assert logits[1, :4].tolist() == pytest.approx(
        [1.0300174595253624, 0.8824229573623642, 0.8734533050618662, 0.9888067563072079], rel=1e-9
    )


def test_the_network_starts_as_published():
    network = MODELS.build(load('transferability').model.architecture)
    network.init_weights()
    fc = network.head.fc
    assert abs(fc.weight.std() / math.sqrt(2 / 512) - 1) < 0.02 and not fc.bias.any()
    grouped = network.backbone.blocks[2][1].conv[3].weight
    assert grouped.shape == (128, 8, 3, 3)
    assert abs(grouped.std() / math.sqrt(2 / (128 * 9)) - 1) < 0.05


@pytest.mark.parametrize('depth', [20.0, 18, 2, True])
def test_another_depth_is_refused(depth):
    with pytest.raises(ValueError, match=r'CIFARResNeXt\.depth='):
        MODELS.build(dict(type='kd_plugins.CIFARResNeXt', depth=depth))
