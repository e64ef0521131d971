"""WTTM and TTM."""

import math

import pytest
import torch
from helpers import oracles
from mmengine.registry import MODELS

from kd_plugins.losses import KDLoss, WTTMLoss, wttm_loss


def wave_logits(dtype=torch.float64):
    """The same numbers on every machine: 5 samples, 7 classes."""
    i = torch.arange(35, dtype=torch.float64).view(5, 7)
    return (3 * torch.sin(1.3 * i + 0.2)).to(dtype), (4 * torch.cos(0.7 * i + 0.5)).to(dtype)


def naive(z_s, z_t, gamma, weighted):
    powers = [p**gamma for p in oracles.softmax(z_t, 1)]
    kl = oracles.kl([p / sum(powers) for p in powers], oracles.softmax(z_s, 1))
    return kl * sum(powers) if weighted else kl


@pytest.mark.parametrize('gamma', [0.1, 0.5, 1.0])
@pytest.mark.parametrize('weighted', [True, False])
def test_value_is_the_naive_loop(gamma, weighted):
    preds_S, preds_T = wave_logits()
    pairs = zip(preds_S.tolist(), preds_T.tolist(), strict=True)
    expected = 3 * oracles.batch_of([naive(s, t, gamma, weighted) for s, t in pairs])
    loss = WTTMLoss(gamma, loss_weight=3.0, weighted=weighted)(preds_S, preds_T)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


# Printed by WTTM and TTM of distiller_zoo/{wttm,ttm}.py, zkxufo/TTM at
# fe457b33a71ba27536ec04fe3d32c5b04963522f, on wave_logits() with (weighted, gamma): the loss,
# and the gradient at the second sample's logits.
PUBLISHED = {
    (True, 0.1): (
        7.386894827626149,
        [-0.10676694906941529, -0.1845094113033805, -0.1725822867648172, 0.08214088808224605,
         0.5248413501553519, -0.06005793191472088, -0.083065659185264],
    ),
    (True, 0.2): (
        5.791465627482893,
        [-0.09090275647503188, -0.1729148305713895, -0.15503860722806465, 0.06290792802201231,
         0.4088892955536472, -0.018238319702463913, -0.03470270959870952],
    ),
    (False, 0.1): (
        1.542247374942953,
        [-0.0223022987597651, -0.03854174021776144, -0.036050311014974905, 0.01715821836598174,
         0.10963288447095124, -0.012545361201479083, -0.01735139164295246],
    ),
    (False, 1.0): (
        2.793239771095356,
        [-0.013560892322111679, -0.10119761413884054, -0.06323635189113058, 0.039457214690205585,
         0.1321261293899499, 0.006031030476363655, 0.000380483795563685],
    ),
}  # fmt: skip


@pytest.mark.parametrize(('weighted', 'gamma'), PUBLISHED)
def test_agrees_with_the_published_code(weighted, gamma):
    preds_S, preds_T = wave_logits()
    preds_S.requires_grad_()
    loss = WTTMLoss(gamma, loss_weight=1.0, weighted=weighted)(preds_S, preds_T)
    loss.backward()
    value, gradient = PUBLISHED[weighted, gamma]
    assert loss.item() == pytest.approx(value, rel=1e-12)
    assert preds_S.grad[1].tolist() == pytest.approx(gradient, rel=1e-9)


def test_a_power_of_one_is_kd_without_a_temperature():
    logits = wave_logits()
    expected = KDLoss(1.0)(*logits).item()
    for weighted in (True, False):
        value = WTTMLoss(1.0, 1.0, weighted)(*logits).item()
        assert value == pytest.approx(expected, rel=1e-12)


def test_weights_lie_between_a_sure_teacher_and_one_that_knows_nothing():
    preds_S = wave_logits()[0]
    preds_T = torch.zeros_like(preds_S)
    preds_T[0, 3] = 400.0
    weights = wttm_loss(preds_S, preds_T, 0.2) / wttm_loss(preds_S, preds_T, 0.2, weighted=False)
    assert weights.tolist() == pytest.approx([1.0] + 4 * [7**0.8], rel=1e-9)


def test_gradient_is_the_slope():
    preds_S, preds_T = wave_logits()
    loss = WTTMLoss(0.2)
    assert torch.autograd.gradcheck(lambda s: loss(s, preds_T), preds_S.requires_grad_())


def test_teacher_takes_no_gradient_and_weight_zero_has_a_graph():
    preds_S, preds_T = wave_logits()
    preds_S.requires_grad_()
    preds_T.requires_grad_()
    loss = WTTMLoss(loss_weight=0.0)(preds_S, preds_T)
    loss.backward()
    assert preds_T.grad is None
    assert loss.item() == 0 and preds_S.grad is not None and not preds_S.grad.any()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('classes', [2, 10])
@pytest.mark.parametrize('opposed', [False, True])
def test_extreme_logits_are_as_exact_as_others(dtype, classes, opposed):
    preds_S = torch.full((3, classes), -400.0)
    preds_S[:, 0] = 400
    preds_T = preds_S.roll(1, dims=1) if opposed else preds_S * 0.5
    expected = WTTMLoss(0.1)(preds_S.double(), preds_T.double())
    preds_S = preds_S.to(dtype).requires_grad_()
    loss = WTTMLoss(0.1)(preds_S, preds_T.to(dtype))
    loss.backward()
    assert loss.dtype == torch.float32 and torch.isfinite(preds_S.grad).all()
    # A probability of e^-400 is 0 in float32, but not its tenth power.
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_loses_only_the_rounding_of_its_inputs(dtype):
    preds_S, preds_T = wave_logits(dtype)
    expected = WTTMLoss()(preds_S.double(), preds_T.double()).item()
    with torch.autocast('cpu', torch.bfloat16):
        loss = WTTMLoss()(preds_S, preds_T)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_empty_batch_is_zero_with_a_gradient():
    preds_S = torch.zeros(0, 7, requires_grad=True)
    loss = WTTMLoss()(preds_S, torch.zeros(0, 7))
    loss.backward()
    assert loss.item() == 0 and preds_S.grad.shape == (0, 7)


@pytest.mark.parametrize(
    ('bad', 'says'),
    [
        (dict(gamma=0), r'WTTMLoss\.gamma=0 .*above 0 and at most 1'),
        (dict(gamma=1.5), r'WTTMLoss\.gamma=1\.5 .*above 0 and at most 1'),
        (dict(gamma=math.nan), r'WTTMLoss\.gamma=nan'),
        (dict(loss_weight=-1), r'WTTMLoss\.loss_weight=-1'),
        (dict(weighted=1), r'WTTMLoss\.weighted=1'),
    ],
)
def test_bad_settings_are_refused_by_name(bad, says):
    with pytest.raises(ValueError, match=says):
        WTTMLoss(**bad)


def test_other_classes_are_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r'\(2, 10\).*\(2, 100\)'):
        WTTMLoss()(torch.zeros(2, 10), torch.zeros(2, 100))


def test_is_registered():
    loss = MODELS.build(dict(type='kd_plugins.WTTMLoss', gamma=0.1, weighted=False))
    assert loss(*wave_logits()).item() == WTTMLoss(0.1, weighted=False)(*wave_logits()).item()
    assert set(loss.diagnose(*wave_logits())) == {'agreement'}
