"""KD."""

import math

import pytest
import torch
from helpers import oracles
from torch import nn

from kd_plugins.losses import KDLoss, kd_loss
from kd_plugins.registry import MODELS
from kd_plugins.temperatures import Temperature


def wave_logits(dtype=torch.float64):
    """The same numbers on every machine: 5 samples, 7 classes."""
    i = torch.arange(35, dtype=torch.float64).view(5, 7)
    return (3 * torch.sin(1.3 * i + 0.2)).to(dtype), (4 * torch.cos(0.7 * i + 0.5)).to(dtype)


class Learned(Temperature):
    """A temperature with a gradient: one number, or one per sample."""

    def __init__(self, value, per_sample=False):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(float(value), dtype=torch.float64))
        self.per_sample = per_sample

    def forward(self, preds_S, preds_T):
        value = self.value.to(preds_S.dtype)
        if not self.per_sample:
            return value
        return value * torch.arange(1, len(preds_S) + 1, dtype=preds_S.dtype)[:, None]


@pytest.mark.parametrize('tau', [0.5, 1.0, 4.0, 20.0])
def test_value_is_the_naive_loop(tau):
    preds_S, preds_T = wave_logits()
    expected = oracles.batch_of(
        [oracles.kd(s, t, tau) for s, t in zip(preds_S.tolist(), preds_T.tolist(), strict=True)]
    )
    assert KDLoss(tau)(preds_S, preds_T).item() == pytest.approx(expected, rel=1e-12)


# Printed by kd_loss of mdistiller/distillers/KD.py, megvii-research/mdistiller at
# a08d46f10d6102bd6e3f258ca5ac880b020ea259, on wave_logits(): the loss, and the
# gradient at the second sample's logits.
PUBLISHED = {
    1.0: (
        2.7932397710953554,
        [-0.013560892322111679, -0.10119761413884054, -0.06323635189113058, 0.039457214690205585,
         0.1321261293899499, 0.006031030476363655, 0.000380483795563685],
    ),
    4.0: (
        5.139398420111162,
        [-0.031216278597338176, -0.16124742829773656, -0.12367081863564833, 0.05821053785334614,
         0.16581669232470533, 0.06938356978191934, 0.022723725570752383],
    ),
}  # fmt: skip


@pytest.mark.parametrize('tau', sorted(PUBLISHED))
def test_agrees_with_the_published_code(tau):
    preds_S, preds_T = wave_logits()
    preds_S.requires_grad_()
    loss = KDLoss(tau)(preds_S, preds_T)
    loss.backward()
    value, gradient = PUBLISHED[tau]
    assert loss.item() == pytest.approx(value, rel=1e-12)
    assert preds_S.grad[1].tolist() == pytest.approx(gradient, rel=1e-9)


def test_gradients_are_finite_differences_of_the_value():
    preds_S, preds_T = wave_logits()
    tau = torch.tensor(3.0, dtype=torch.float64)
    inputs = [x.clone().requires_grad_() for x in (preds_S, preds_T, tau)]
    assert torch.autograd.gradcheck(kd_loss, inputs)


def test_a_temperature_per_sample_is_a_loss_per_sample():
    preds_S, preds_T = wave_logits()
    temperature = Learned(1.5, per_sample=True)
    expected = oracles.batch_of(
        [
            oracles.kd(s, t, 1.5 * (i + 1))
            for i, (s, t) in enumerate(zip(preds_S.tolist(), preds_T.tolist(), strict=True))
        ]
    )
    loss = KDLoss(tau=temperature)(preds_S, preds_T)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_teacher_takes_no_gradient_and_weight_scales():
    preds_S, preds_T = wave_logits()
    preds_S.requires_grad_()
    preds_T.requires_grad_()
    once, thrice = KDLoss(2.0), KDLoss(2.0, loss_weight=3.0)
    thrice(preds_S, preds_T).backward()
    assert preds_T.grad is None
    expected = 3 * once(preds_S, preds_T).item()
    assert thrice(preds_S, preds_T).item() == pytest.approx(expected, rel=1e-12)


def test_weight_zero_still_has_a_graph():
    preds_S, preds_T = wave_logits()
    preds_S.requires_grad_()
    loss = KDLoss(2.0, loss_weight=0.0)(preds_S, preds_T)
    loss.backward()
    assert loss.item() == 0
    assert preds_S.grad is not None and not preds_S.grad.any()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('classes', [2, 10])
@pytest.mark.parametrize('opposed', [False, True])
def test_extreme_logits_stay_finite(dtype, classes, opposed):
    preds_S = torch.full((3, classes), -80.0)
    preds_S[:, 0] = 80
    preds_T = preds_S.roll(1, dims=1) if opposed else preds_S * 0.5
    preds_S = preds_S.to(dtype).requires_grad_()
    temperature = Learned(1.0)
    loss = KDLoss(tau=temperature)(preds_S, preds_T.to(dtype))
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss) and torch.isfinite(preds_S.grad).all()
    assert torch.isfinite(temperature.value.grad)
    assert loss.item() == pytest.approx(160.0 if opposed else 0.0, abs=1e-3)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_loses_only_the_rounding_of_its_inputs(dtype):
    preds_S, preds_T = wave_logits(dtype)
    expected = KDLoss(4.0)(preds_S.double(), preds_T.double()).item()
    with torch.autocast('cpu', torch.bfloat16):
        loss = KDLoss(4.0)(preds_S, preds_T)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_empty_batch_is_zero_with_a_gradient():
    preds_S = torch.zeros(0, 7, requires_grad=True)
    loss = KDLoss(4.0)(preds_S, torch.zeros(0, 7))
    loss.backward()
    assert loss.item() == 0 and preds_S.grad.shape == (0, 7)


@pytest.mark.parametrize('tau', [0, -1.0, math.nan, math.inf, '4', None, True])
def test_bad_temperature_is_refused_by_name(tau):
    with pytest.raises(ValueError, match=r'KDLoss\.tau=.*number above 0'):
        KDLoss(tau)


@pytest.mark.parametrize('weight', [-0.1, math.nan, 'x'])
def test_bad_weight_is_refused_by_name(weight):
    with pytest.raises(ValueError, match=r'KDLoss\.loss_weight='):
        KDLoss(4.0, loss_weight=weight)


def test_other_classes_are_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r'\(2, 10\).*\(2, 100\)'):
        KDLoss(4.0)(torch.zeros(2, 10), torch.zeros(2, 100))


def test_is_registered_and_takes_a_temperature_by_config():
    loss = MODELS.build(
        dict(type='kd_plugins.KDLoss', tau=dict(type='kd_plugins.FixedTemperature', value=2.0))
    )
    preds_S, preds_T = wave_logits()
    assert loss(preds_S, preds_T).item() == KDLoss(2.0)(preds_S, preds_T).item()
