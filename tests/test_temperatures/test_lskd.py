"""LSKD: standardised logits before the temperature."""

import math

import pytest
import torch
from helpers import build, distiller, oracles
from mmengine.registry import MODELS

from kd_plugins.hooks.curriculum_temperature import named_temperatures
from kd_plugins.losses import DKDLoss, EEKDLoss, KDLoss, SigmoidKDLoss, WithTemperature
from kd_plugins.structures import Progress
from kd_plugins.temperatures import (
    GlobalTemperature,
    InstanceTemperature,
    LSKDTemperature,
    standardized,
)

LABELS = torch.tensor([0, 3, 6, 2, 2])
LSKD = dict(type='kd_plugins.LSKDTemperature')


def wave_logits(dtype=torch.float64):
    """The same numbers on every machine: 5 samples, 7 classes."""
    i = torch.arange(35, dtype=torch.float64).view(5, 7)
    return (3 * torch.sin(1.3 * i + 0.2)).to(dtype), (4 * torch.cos(0.7 * i + 0.5)).to(dtype)


def naive(row):
    """Standardised, as the formula says it."""
    mean = math.fsum(row) / len(row)
    deviation = math.sqrt(math.fsum((z - mean) ** 2 for z in row) / (len(row) - 1))
    return [(z - mean) / (deviation + 1e-7) for z in row]


@pytest.mark.parametrize('tau', [0.5, 2.0, 4.0])
def test_is_the_naive_loop(tau):
    preds_S, preds_T = wave_logits()
    pairs = list(zip(preds_S.tolist(), preds_T.tolist(), strict=True))
    kd = oracles.batch_of([oracles.kd(naive(s), naive(t), tau) for s, t in pairs])
    assert KDLoss(LSKDTemperature(tau))(preds_S, preds_T).item() == pytest.approx(kd, rel=1e-12)
    parts = [
        oracles.tckd_nckd(naive(s), naive(t), label, tau)
        for (s, t), label in zip(pairs, LABELS.tolist(), strict=True)
    ]
    dkd = oracles.batch_of([9 * tckd + 18 * nckd for tckd, nckd in parts])
    loss = DKDLoss(LSKDTemperature(tau), alpha=1.0, beta=2.0, loss_weight=9.0)
    assert loss(preds_S, preds_T, LABELS).item() == pytest.approx(dkd, rel=1e-12)


# Printed by kd_loss and dkd_loss (alpha 9, beta 18) of mdistiller/distillers/{KD,DKD}.py and
# DistillKL_logit_stand of CTKD/distiller_zoo/KD.py, sunshangquan/logit-standardization-KD at
# f6e5aa5172bad618e801163c3385322eea673754, on wave_logits(): the loss, and the gradient at the
# second sample's logits.
PUBLISHED = {
    ('KD', 2.0): (
        0.8174749002970941,
        [-0.010249256862322134, -0.01022221156739758, -0.010724656470502088,
         -0.0045274684061932845, 0.007425130305269224, 0.009863563157081241, 0.01843489984406463],
    ),
    ('KD', 3.0): (
        0.8300043523772123,
        [-0.00991272869258497, -0.011088758257544937, -0.011107121435826772,
         -0.004722326271691955, 0.006684975605888102, 0.011598084229227234, 0.018547874822533304],
    ),
    ('DKD', 2.0): (
        13.94630620017402,
        [-0.18719707240345107, -0.22030364037534803, -0.22201784630364016, -0.20939057469332917,
         0.22186424064207752, 0.2315020350755845, 0.3855428580581064],
    ),
    ('DKD', 3.0): (
        14.333072242979389,
        [-0.1808122918002058, -0.23919580284590042, -0.2302644283107391, -0.20606483041243112,
         0.20056198485577287, 0.2681931044399016, 0.38758226407360175],
    ),
    ('CTKD', 5.5): (
        0.83374286623929,
        [-0.009507968597423535, -0.0118534513776987, -0.011324909313109014, -0.004920083950207578,
         0.005952786880189074, 0.013161273763590994, 0.018492352594658753],
    ),
}  # fmt: skip


def learned(tau):
    """CTKD's temperature with this value, at the end of its curriculum."""
    temperature = GlobalTemperature().double()
    share = (tau - 1) / 20
    temperature.theta.data.fill_(math.log(share / (1 - share)))
    temperature.set_progress(Progress(iter=0, max_iters=100, epoch=9, max_epochs=10))
    return temperature


def loss_of(method, tau):
    if method == 'DKD':
        loss = DKDLoss(LSKDTemperature(tau), alpha=1.0, beta=2.0, loss_weight=9.0)
        return lambda s, t: loss(s, t, LABELS)
    return KDLoss(LSKDTemperature(learned(tau) if method == 'CTKD' else tau))


@pytest.mark.parametrize(('method', 'tau'), PUBLISHED)
def test_agrees_with_the_published_code(method, tau):
    preds_S, preds_T = wave_logits()
    preds_S.requires_grad_()
    loss = loss_of(method, tau)
    value = loss(preds_S, preds_T)
    value.backward()
    expected, gradient = PUBLISHED[method, tau]
    assert value.item() == pytest.approx(expected, rel=1e-12)
    assert preds_S.grad[1].tolist() == pytest.approx(gradient, rel=1e-9)
    if method == 'CTKD':
        # From the same run: the slope in tau; theta's is reversed.
        slope = -4.1044471169982e-05 * 20 * (4.5 / 20) * (1 - 4.5 / 20)
        assert loss.tau.tau.theta.grad.item() == pytest.approx(-slope, rel=1e-9)


@pytest.mark.parametrize('method', ['KD', 'DKD'])
def test_scales_and_shifts_of_either_network_change_nothing(method):
    preds_S, preds_T = wave_logits()
    loss = loss_of(method, 2.0)
    plain = loss(preds_S, preds_T).item()
    scale, shift = torch.rand(2, 5, 1, dtype=torch.float64) * 7 + 0.5
    # The constant 1e-7 beside a deviation of 2.
    assert loss(scale * preds_S - shift, preds_T).item() == pytest.approx(plain, rel=1e-6)
    assert loss(preds_S, scale * preds_T + shift).item() == pytest.approx(plain, rel=1e-6)
    assert loss(scale * preds_T - shift, preds_T).item() == pytest.approx(0, abs=1e-12)


def test_the_gradient_neither_scales_nor_shifts_the_student():
    preds_S, preds_T = wave_logits()
    preds_S.requires_grad_()
    loss_of('DKD', 2.0)(preds_S, preds_T).backward()
    centred = preds_S.detach() - preds_S.detach().mean(dim=1, keepdim=True)
    assert preds_S.grad.abs().max() > 0.1
    assert preds_S.grad.sum(dim=1).abs().max() < 1e-12
    assert (preds_S.grad * centred).sum(dim=1).abs().max() < 1e-6


def test_gradient_is_the_slope():
    preds_S, preds_T = wave_logits()
    preds_S[0] *= 0.01  # below the floor
    loss = KDLoss(LSKDTemperature(2.0))
    assert torch.autograd.gradcheck(lambda s: loss(s, preds_T), preds_S.requires_grad_())
    # Losses with a softmax would not see the mean's part.
    assert torch.autograd.gradcheck(standardized, preds_S)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('scale', [0.0, 1e-4, 1e4])
def test_constant_tiny_and_huge_logits_have_a_bounded_gradient(dtype, scale):
    preds_S, preds_T = wave_logits(torch.float32)
    preds_S = (scale * preds_S + 3).to(dtype).requires_grad_()
    loss = KDLoss(LSKDTemperature(2.0))(preds_S, preds_T.to(dtype))
    loss.backward()
    assert loss.dtype == torch.float32 and torch.isfinite(loss)
    # Of a sample: tau times the difference of probabilities, over the least deviation.
    assert preds_S.grad.abs().max() <= 2 / 0.1 / 5
    assert (scale == 1e4) or preds_S.grad.any()


def test_without_a_floor_a_classifier_that_starts_at_zero_gets_the_published_gradient():
    preds_T = wave_logits()[1]
    preds_S = torch.zeros(5, 7, dtype=torch.float64, requires_grad=True)
    KDLoss(LSKDTemperature(2.0, floor=0.0))(preds_S, preds_T).backward()
    assert preds_S.grad.abs().max() > 1e5


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_loses_only_the_rounding_of_its_inputs(dtype):
    preds_S, preds_T = wave_logits(dtype)
    loss = KDLoss(LSKDTemperature(2.0))
    expected = loss(preds_S.double(), preds_T.double()).item()
    with torch.autocast('cpu', torch.bfloat16):
        value = loss(preds_S, preds_T)
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_empty_batch_is_zero_with_a_gradient():
    preds_S = torch.zeros(0, 7, requires_grad=True)
    loss = KDLoss(LSKDTemperature(2.0))(preds_S, torch.zeros(0, 7))
    loss.backward()
    assert loss.item() == 0 and preds_S.grad.shape == (0, 7)


def test_a_temperature_by_instance_reads_the_logits_as_they_are():
    preds_S, preds_T = wave_logits()
    inner = InstanceTemperature(num_classes=7).double()
    inner.set_progress(Progress(iter=0, max_iters=100, epoch=9, max_epochs=10))
    taus = inner(preds_S, preds_T)
    expected = oracles.batch_of(
        [
            oracles.kd(naive(s), naive(t), tau)
            for s, t, tau in zip(
                preds_S.tolist(), preds_T.tolist(), taus.squeeze(1).tolist(), strict=True
            )
        ]
    )
    value = KDLoss(LSKDTemperature(inner))(preds_S, preds_T)
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_is_built_by_config_and_learns_and_is_logged_as_its_term():
    mapping = distiller()['loss_forward_mappings']['loss_kd']
    tau = dict(LSKD, tau=dict(type='kd_plugins.GlobalTemperature'))
    cfg = distiller(
        distill_losses={
            f'loss_{name}': dict(type='kd_plugins.KDLoss', tau=dict(tau)) for name in 'ab'
        },
        loss_forward_mappings=dict(loss_a=mapping, loss_b=mapping),
    )
    model = build(distiller=cfg)
    assert set(named_temperatures(model)) == {'tau.a', 'tau.b'}
    # Who tells the losses how far the training is tells their temperatures, too.
    model.set_progress(Progress(iter=0, max_iters=100, epoch=9, max_epochs=10))
    inputs, labels = torch.randn(5, 6), torch.tensor([0, 1, 2, 3, 0])
    total, _ = model.parse_losses(model(inputs, labels, mode='loss'))
    total.backward()
    assert all(
        temperature.theta.grad.abs() > 0 for temperature in named_temperatures(model).values()
    )


@pytest.mark.parametrize('name', ['KLDivergence', 'DISTLoss'])
def test_other_packages_losses_take_it(name):
    preds_S, preds_T = wave_logits()
    theirs = MODELS.build(
        dict(
            type='kd_plugins.WithTemperature',
            loss=dict(type=f'mmrazor.{name}'),
            tau=dict(LSKD, tau=2.0),
        )
    )
    expected = MODELS.build(dict(type=f'mmrazor.{name}', tau=2.0))(
        *(torch.tensor([naive(row) for row in preds.tolist()]) for preds in (preds_S, preds_T))
    )
    assert theirs(preds_S, preds_T).item() == pytest.approx(expected.item(), rel=1e-6)


def test_several_teachers_are_standardised_each():
    preds_S, preds_T = wave_logits()
    both = torch.stack([preds_T, 0.1 * preds_T.roll(1, 1) + 2], dim=1)
    loss = EEKDLoss(LSKDTemperature(2.0), mode='equal')
    scaled = loss(preds_S, torch.stack([5 * both[:, 0], both[:, 1] - 4], dim=1))
    assert loss(preds_S, both).item() == pytest.approx(scaled.item(), rel=1e-5)
    assert EEKDLoss(2.0, mode='equal')(preds_S, both).item() != pytest.approx(scaled.item())


@pytest.mark.parametrize(
    ('bad', 'says'),
    [
        (dict(tau=0), r'LSKDTemperature\.tau=0 .*number above 0'),
        (dict(tau='2'), r"LSKDTemperature\.tau='2'"),
        (dict(floor=-1), r'LSKDTemperature\.floor=-1 .*0 or above'),
        (dict(floor=math.nan), r'LSKDTemperature\.floor=nan'),
    ],
)
def test_bad_settings_are_refused_by_name(bad, says):
    with pytest.raises(ValueError, match=says):
        LSKDTemperature(**bad)


def test_two_classes_are_refused_before_training_and_in_the_first_step():
    networks = {
        side: dict(type='TinyClassifier', width=4, classes=2)
        for side in ('architecture', 'teacher')
    }
    cfg = distiller(dict(type='kd_plugins.KDLoss', tau=dict(LSKD)))
    says = r'distill_losses\.loss_kd\.tau needs logits of at least 3 classes, but they have 2'
    with pytest.raises(ValueError, match=says):
        build(**networks, distiller=cfg)
    with pytest.raises(ValueError, match='LSKDTemperature needs .* at least 3 classes'):
        KDLoss(LSKDTemperature())(torch.zeros(4, 2), torch.zeros(4, 2))


def test_maps_and_classes_that_do_not_exclude_each_other_are_refused():
    maps = torch.zeros(2, 3, 4, 5)
    loss = WithTemperature(dict(type='mmrazor.ChannelWiseDivergence'), LSKDTemperature())
    with pytest.raises(ValueError, match=r'logits of shape \(N, C\).*\(2, 3, 4, 5\)'):
        loss(maps, maps)
    with pytest.raises(ValueError, match=r'SigmoidKDLoss\.tau=LSKDTemperature'):
        SigmoidKDLoss(LSKDTemperature())
