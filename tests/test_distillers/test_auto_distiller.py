"""A distiller that is wired by itself: what it trains, saves and refuses."""

import pytest
import torch
from helpers.networks import resnet
from helpers.tiny_pictures import Pictures, wired
from mmengine.registry import MODELS
from torch.optim import SGD


def built(seed=0, **changes):
    torch.manual_seed(seed)
    model = MODELS.build(wired(**changes)).train()
    model.init_weights()
    return model


def steps(model, number=3):
    samples = [Pictures(8)[i] for i in range(8)]
    inputs = torch.stack([sample['inputs'] for sample in samples])
    labels = [sample['data_samples'] for sample in samples]
    optimizer = SGD(model.parameters(), lr=0.05)
    for _ in range(number):
        losses = model(inputs, labels, mode='loss')
        total, _ = model.parse_losses(losses)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return model.state_dict()


def test_it_trains_the_student_and_every_layer_between_both():
    model = built()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    steps(model)
    assert all(p.grad is not None for p in model.parameters())
    still = [name for name, p in model.named_parameters() if torch.equal(before[name], p)]
    assert still == []


def test_checkpoints_are_the_students_and_the_distillers():
    alone = set(MODELS.build(dict(resnet(), _scope_='mmpretrain')).state_dict())
    keys = set(built().state_dict())
    assert alone <= keys and all(key.startswith('distiller.') for key in keys - alone)
    other = built(seed=1)
    other.load_state_dict(built().state_dict(), strict=True)


@pytest.mark.parametrize('term', [None, dict(type='kd_plugins.CWDLoss', loss_weight=0.0)])
def test_weight_0_is_the_student_alone_bit_for_bit(term):
    torch.manual_seed(0)
    alone = MODELS.build(dict(resnet(norm_eval=True), _scope_='mmpretrain'))
    alone.train().init_weights()
    expected = steps(alone)
    found = steps(built(term=term, loss_weight=0.0))
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_what_stands_beside_is_kept_and_may_not_have_its_names():
    cfg = wired()
    logits = dict(type='mmrazor.ModuleOutputs', source='head.fc')
    cfg['distiller'].update(
        student_recorders=dict(logits=logits),
        teacher_recorders=dict(logits=logits),
        distill_losses=dict(loss_kd=dict(type='kd_plugins.KDLoss', tau=2.0)),
        loss_forward_mappings=dict(
            loss_kd=dict(
                preds_S=dict(recorder='logits', from_student=True),
                preds_T=dict(recorder='logits', from_student=False),
            )
        ),
    )
    assert {*MODELS.build(cfg).distiller.distill_losses} == {'loss_mgd', 'loss_kd'}
    cfg['distiller']['student_recorders']['maps'] = logits
    with pytest.raises(ValueError, match=r'student_recorders\.maps is what AutoDistiller calls'):
        MODELS.build(cfg)


@pytest.mark.parametrize(
    ('change', 'says'),
    [
        (dict(distiller=dict(type='kd_plugins.AutoDistiller')), 'has no term'),
        (
            dict(distiller=dict(type='kd_plugins.AutoDistiller', term='cwd', were='neck')),
            'has were',
        ),
        (dict(teacher=None), 'there is no teacher to run'),
        (dict(teacher_cache=dict(dir='nowhere')), r'model\.teacher_cache'),
    ],
)
def test_what_cannot_be_wired_is_refused(change, says):
    with pytest.raises(ValueError, match=says):
        MODELS.build(dict(wired(), **change))
