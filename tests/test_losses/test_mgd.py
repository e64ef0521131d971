"""MGD."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers.maps import maps, set_weights, wave
from mmengine.registry import MODELS

from kd_plugins.losses import MGDLoss
from kd_plugins.structures import Progress


def at(iteration, seed=5):
    return Progress(iter=iteration, max_iters=10, epoch=0, max_epochs=1, seed=seed)


def made(c_t=6, iteration=3, **changes):
    loss = MGDLoss([3], [c_t], loss_weight=1.0, **changes)
    loss.set_progress(at(iteration))
    return set_weights(loss.double())


# Printed by FeatureLoss of det/mmdet/distillation/losses/mgd.py (lambda 0.65) and MGDLoss of
# cls/mmcls/distillation/losses/mgd.py (lambda 0.15), yzd-v/MGD at
# 2c9da0b28625eb948db57afc02c824452c3910fe, alpha 1, on maps(), with the weights of set_weights and
# 0.5 + wave(shape, 0.5, 1.7, 0.1) in the place of what torch.rand draws: the loss, and the first
# of its gradients at the second picture's map.
PUBLISHED = {
    ('positions', 3): (73.00719682952025, [0.0, -0.13737751839648193, 0.0, 0.0, 0.0]),
    ('positions', 6): (314.56851107108696, [0.0, -5.865159850094392, 0.0, 0.0, 0.0]),
    ('channels', 6): (
        181.58784703174052,
        [-1.3762333688104857, -2.6548120498614614, 0.34462059666021405, 2.699683286246897,
         0.899387007420349],
    ),
}  # fmt: skip


@pytest.mark.parametrize(('mask_on', 'c_t'), PUBLISHED)
def test_agrees_with_the_published_code(mask_on, c_t, monkeypatch):
    def drawn(shape, **_):
        value = wave(tuple(shape), 0.5, 1.7, 0.1) + 0.5
        # Of positions the published code masks what is drawn large, of channels what is small.
        return 1 - value if mask_on == 'positions' else value

    loss = made(c_t, mask_ratio=0.65 if mask_on == 'positions' else 0.15, mask_on=mask_on)
    monkeypatch.setattr(torch, 'rand', drawn)
    student, teacher = maps(c_t=c_t)
    value = loss(student, teacher)
    value.backward()
    expected, gradient = PUBLISHED[mask_on, c_t]
    assert value.item() == pytest.approx(expected, rel=1e-12)
    assert student.grad[1].flatten()[:5].tolist() == pytest.approx(gradient, rel=1e-9)


def test_without_a_mask_it_is_the_naive_sum():
    student, teacher = maps(c_t=6)
    loss = made(mask_ratio=0.0)
    w = [p.detach() for p in loss.parameters()]
    x = torch.einsum('nchw,dc->ndhw', student, w[0].flatten(1)) + w[1][:, None, None]
    generated = F.conv2d(F.conv2d(x, w[2], w[3], padding=1).relu(), w[4], w[5], padding=1)
    pairs = zip(generated.flatten().tolist(), teacher.flatten().tolist(), strict=True)
    expected = math.fsum((a - b) ** 2 for a, b in pairs) / 2
    assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('mask_on', ['positions', 'channels'])
def test_masks_are_as_likely_as_told_and_follow_the_progress(mask_on):
    loss = MGDLoss([64], [64], mask_ratio=0.3, mask_on=mask_on)
    like = torch.zeros(8, 64, 32, 32)
    state = torch.get_rng_state()

    def mask(iteration, seed=5, level=0):
        loss.set_progress(at(iteration, seed))
        return loss._mask(level, like)

    first = mask(0)
    assert first.shape == ((8, 1, 32, 32) if mask_on == 'positions' else (8, 64, 1, 1))
    assert set(first.unique().tolist()) == {0.0, 1.0}
    deviation = math.sqrt(0.3 * 0.7 / first.numel())
    assert abs(1 - first.mean().item() - 0.3) < 5 * deviation
    assert torch.equal(first, mask(0))
    others = [mask(1), mask(0, seed=6), mask(0, level=1)]
    assert all(not torch.equal(first, other) for other in others)
    # Nothing else that is drawn in the training moves.
    assert torch.equal(state, torch.get_rng_state())
    loss.set_progress(None)
    assert not torch.equal(loss._mask(0, like), loss._mask(0, like))


def test_every_process_draws_its_own(monkeypatch):
    loss, like = made(), torch.zeros(4, 6, 8, 8)
    masks = []
    monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, 'get_rank', lambda rank=rank: rank)
        masks.append(loss._mask(0, like))
    assert not torch.equal(*masks)


def test_widths_that_agree_are_not_aligned():
    assert len(list(MGDLoss([4], [4]).parameters())) == 4
    assert len(list(MGDLoss([4], [5]).parameters())) == 6


@pytest.mark.parametrize(
    ('bad', 'says'),
    [
        (dict(mask_ratio=1.0), r'MGDLoss\.mask_ratio=1\.0 .*from 0 to below 1'),
        (dict(mask_ratio=-0.1), r'MGDLoss\.mask_ratio=-0\.1'),
        (dict(mask_on='pixels'), r"MGDLoss\.mask_on='pixels' .*'positions' or 'channels'"),
        (dict(loss_weight=-1), r'MGDLoss\.loss_weight=-1'),
    ],
)
def test_bad_settings_are_refused_by_name(bad, says):
    with pytest.raises(ValueError, match=says):
        MODELS.build(dict(dict(type='kd_plugins.MGDLoss', channels_S=[3], channels_T=[6]), **bad))
