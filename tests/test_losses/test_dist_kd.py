"""DIST."""

import math
import warnings

import pytest
import torch
from helpers import oracles
from mmengine.registry import MODELS

from kd_plugins.losses import DISTLoss, dist_loss
from kd_plugins.structures import Progress
from kd_plugins.temperatures import GlobalTemperature, InstanceTemperature


def wave_logits(dtype=torch.float64):
    """The same numbers on every machine: 5 samples, 7 classes."""
    i = torch.arange(35, dtype=torch.float64).view(5, 7)
    return (3 * torch.sin(1.3 * i + 0.2)).to(dtype), (4 * torch.cos(0.7 * i + 0.5)).to(dtype)


def pearson(a, b):
    """The correlation of two lists, from its formula."""
    a, b = ([x - math.fsum(v) / len(v) for x in v] for v in (a, b))
    lengths = [math.sqrt(math.fsum(x * x for x in v)) for v in (a, b)]
    product = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return product / (lengths[0] * lengths[1] + 1e-8)


def naive(preds_S, preds_T, tau, beta, gamma):
    rows = [[oracles.softmax(z, tau) for z in preds.tolist()] for preds in (preds_S, preds_T)]
    columns = [list(zip(*p, strict=True)) for p in rows]
    inter, intra = (
        1 - oracles.batch_of([pearson(a, b) for a, b in zip(*pair, strict=True)])
        for pair in (rows, columns)
    )
    return tau**2 * (beta * inter + gamma * intra)


@pytest.mark.parametrize('tau', [0.5, 1.0, 4.0])
@pytest.mark.parametrize(('beta', 'gamma'), [(1.0, 1.0), (0.3, 2.0)])
def test_value_is_the_naive_loop(tau, beta, gamma):
    logits = wave_logits()
    loss = DISTLoss(tau, beta, gamma, loss_weight=3.0)(*logits)
    assert loss.item() == pytest.approx(3 * naive(*logits, tau, beta, gamma), rel=1e-12)


# Printed by DIST of lib/models/losses/dist_kd.py, hunto/image_classification_sota at
# 6f7a70a1dd57fd88413d83909d3d53243068f701, on wave_logits() with (beta, gamma, tau): the loss,
# and the gradient at the second sample's logits.
PUBLISHED = {
    (1.0, 1.0, 1.0): (
        2.337971686993175,
        [0.007087682986032234, -0.0013593017753388103, -0.0017703176590125648,
         -0.010264814454252407, -0.0011545737626578443, 0.00685820497191699,
         0.0006031196933123986],
    ),
    (1.0, 1.0, 4.0): (
        33.21922815574685,
        [-0.27956248822358964, -0.31622827499556566, -0.3112498927721228, -0.30793766868526606,
         0.29729833715865284, 0.650908705938184, 0.2667712815797072],
    ),
    (2.0, 0.5, 4.0): (
        41.9929330213021,
        [-0.3460549538695373, -0.3396576043624074, -0.33276502195016855, -0.3138887606137306,
         0.285441967397758, 0.6814107461363829, 0.36551362726170283],
    ),
}  # fmt: skip


@pytest.mark.parametrize(('beta', 'gamma', 'tau'), PUBLISHED)
def test_agrees_with_the_published_code(beta, gamma, tau):
    preds_S, preds_T = wave_logits()
    preds_S.requires_grad_()
    loss = DISTLoss(tau, beta, gamma, loss_weight=1.0)(preds_S, preds_T)
    loss.backward()
    value, gradient = PUBLISHED[beta, gamma, tau]
    assert loss.item() == pytest.approx(value, rel=1e-12)
    assert preds_S.grad[1].tolist() == pytest.approx(gradient, rel=1e-9)


def test_mmrazors_loss_is_the_same():
    preds_S, preds_T = wave_logits()
    theirs = MODELS.build(dict(type='mmrazor.DISTLoss', tau=4.0, loss_weight=2.0))
    assert DISTLoss(4.0)(preds_S, preds_T).item() == pytest.approx(
        theirs(preds_S, preds_T).item(), rel=1e-12
    )


@pytest.mark.parametrize('tau', [1.0, 4.0])
def test_gradient_is_the_slope(tau):
    preds_S, preds_T = wave_logits()
    loss = DISTLoss(tau)
    assert torch.autograd.gradcheck(lambda s: loss(s, preds_T), preds_S.requires_grad_())


def test_parts_lie_between_agreement_and_its_opposite():
    preds_S, preds_T = wave_logits()
    shift = torch.rand(5, 1, dtype=torch.float64)
    for part in dist_loss(preds_T + shift, preds_T, 4.0):
        assert part.abs().max() < 1e-3
    # Probabilities that are an affine function of the teacher's are as good as equal.
    p_T = (preds_T / 4).softmax(dim=1)
    mild = 4 * (0.3 * p_T + 0.1).log()
    inter, intra = dist_loss(mild, preds_T, 4.0)
    assert inter.abs().max() < 1e-3 and intra.max() < 1e-3
    opposite = 4 * (0.5 - p_T).log()
    assert p_T.max() < 0.5
    for part in dist_loss(opposite, preds_T, 4.0):
        assert part.min() > 2 * 16 - 1e-3


def test_a_learned_temperature_of_the_batch_learns():
    preds_S, preds_T = wave_logits()
    tau = GlobalTemperature().double()
    tau.set_progress(Progress(iter=0, max_iters=100, epoch=9, max_epochs=10))
    DISTLoss(tau)(preds_S, preds_T).backward()

    def at(theta):
        return 2 * naive(preds_S, preds_T, 1 + 20 / (1 + math.exp(-theta)), 1, 1)

    slope = (at(1 + 1e-5) - at(1 - 1e-5)) / 2e-5
    assert tau.theta.grad.item() == pytest.approx(-slope, rel=1e-6)
    with pytest.raises(ValueError, match=r'DISTLoss\.tau=InstanceTemperature .*over all samples'):
        DISTLoss(InstanceTemperature(num_classes=7))


def test_teacher_takes_no_gradient_and_weight_scales():
    preds_S, preds_T = wave_logits()
    preds_S.requires_grad_()
    preds_T.requires_grad_()
    loss = DISTLoss(4.0, loss_weight=0.0)(preds_S, preds_T)
    loss.backward()
    assert preds_T.grad is None
    assert loss.item() == 0 and preds_S.grad is not None and not preds_S.grad.any()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('tau', [1.0, 4.0])
def test_students_that_say_nothing_yet_get_a_bounded_gradient(dtype, tau):
    preds_T = wave_logits(torch.float32)[1]
    preds_S = torch.zeros(5, 7, dtype=dtype).requires_grad_()
    loss = DISTLoss(tau)(preds_S, preds_T.to(dtype))
    loss.backward()
    assert loss.item() == pytest.approx(2 * tau**2 * 2)
    # 1 / LEAST, for either part; the published code has 1e6 here.
    assert 0.01 < preds_S.grad.abs().max() < 2 * tau * 2 * 50


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('classes', [3, 10])
@pytest.mark.parametrize('opposed', [False, True])
def test_extreme_logits_stay_finite(dtype, classes, opposed):
    preds_S = torch.full((3, classes), -80.0)
    preds_S[:, 0] = 80
    preds_T = preds_S.roll(1, dims=1) if opposed else preds_S * 0.5
    preds_S = preds_S.to(dtype).requires_grad_()
    loss = DISTLoss(1.0, loss_weight=1.0)(preds_S, preds_T.to(dtype))
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss) and torch.isfinite(preds_S.grad).all()
    # All samples are alike, so of a class nothing is known.
    inter = 1 + 1 / (classes - 1) if opposed else 0.0
    assert loss.item() == pytest.approx(inter + 1, abs=1e-4)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_loses_only_the_rounding_of_its_inputs(dtype):
    preds_S, preds_T = wave_logits(dtype)
    expected = DISTLoss(4.0)(preds_S.double(), preds_T.double()).item()
    with torch.autocast('cpu', torch.bfloat16):
        loss = DISTLoss(4.0)(preds_S, preds_T)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_empty_batch_is_zero_with_a_gradient():
    preds_S = torch.zeros(0, 7, requires_grad=True)
    loss = DISTLoss(4.0)(preds_S, torch.zeros(0, 7))
    loss.backward()
    assert loss.item() == 0 and preds_S.grad.shape == (0, 7)


def test_one_sample_and_two_classes_are_said_once():
    preds_S, preds_T = wave_logits()
    loss = DISTLoss(4.0, loss_weight=1.0)
    with pytest.warns(UserWarning, match='1 sample in a batch .* constant'):
        value = loss(preds_S[:1], preds_T[:1])
    alone = DISTLoss(4.0, gamma=0.0, loss_weight=1.0)(preds_S[:1], preds_T[:1])
    assert value.item() == pytest.approx(alone.item() + 16, rel=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        loss(preds_S[:1], preds_T[:1])
    with pytest.warns(UserWarning, match='over 2 classes .* no gradient'):
        DISTLoss()(preds_S[:, :2], preds_T[:, :2])


@pytest.mark.parametrize(
    ('bad', 'says'),
    [
        (dict(tau=0), r'DISTLoss\.tau=0'),
        (dict(beta=-1), r'DISTLoss\.beta=-1'),
        (dict(gamma=math.inf), r'DISTLoss\.gamma=inf'),
        (dict(loss_weight='2'), r"DISTLoss\.loss_weight='2'"),
    ],
)
def test_bad_settings_are_refused_by_name(bad, says):
    with pytest.raises(ValueError, match=says):
        DISTLoss(**bad)


def test_other_classes_are_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r'\(2, 10\).*\(2, 100\)'):
        DISTLoss()(torch.zeros(2, 10), torch.zeros(2, 100))


def test_is_registered_with_the_published_weights_and_tells_its_parts():
    loss = MODELS.build(dict(type='kd_plugins.DISTLoss', tau=4.0))
    assert (loss.beta, loss.gamma, loss.loss_weight) == (1.0, 1.0, 2.0)
    preds_S, preds_T = wave_logits()
    seen = loss.diagnose(preds_S, preds_T)
    assert loss(preds_S, preds_T).item() == pytest.approx(
        2 * (seen['inter'] + seen['intra']).item(), rel=1e-12
    )
    same = sum(
        s.index(max(s)) == t.index(max(t))
        for s, t in zip(preds_S.tolist(), preds_T.tolist(), strict=True)
    )
    assert seen['agreement'].item() == pytest.approx(20.0 * same)
