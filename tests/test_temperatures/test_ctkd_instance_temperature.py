"""CTKD's instance-wise temperature."""

import math

import pytest
import torch

from kd_plugins.losses import KDLoss, kd_loss
from kd_plugins.registry import MODELS
from kd_plugins.structures import Progress
from kd_plugins.temperatures import InstanceTemperature

FULL = Progress(iter=0, max_iters=100, epoch=9, max_epochs=10)


def wave_logits(dtype=torch.float64):
    """The same numbers on every machine: 5 samples, 7 classes."""
    i = torch.arange(35, dtype=torch.float64).view(5, 7)
    return (3 * torch.sin(1.3 * i + 0.2)).to(dtype), (4 * torch.cos(0.7 * i + 0.5)).to(dtype)


def instance(**settings):
    torch.manual_seed(0)
    tau = InstanceTemperature(**{'num_classes': 7, 'hidden': 5, **settings}).double()
    tau.set_progress(FULL)
    return tau


@pytest.mark.parametrize('inputs', ['logits', 'probabilities'])
def test_is_the_naive_network_of_every_sample(inputs):
    preds_S, preds_T = wave_logits()
    tau = instance(inputs=inputs)

    def softmax(row):
        return [math.exp(z) / sum(math.exp(y) for y in row) for z in row]

    expected = []
    for s, t in zip(preds_S.tolist(), preds_T.tolist(), strict=True):
        x = t + s if inputs == 'logits' else softmax(t) + softmax(s)
        hidden = [
            max(0, sum(w * v for w, v in zip(row, x, strict=True)) + b)
            for row, b in zip(tau.hidden.weight.tolist(), tau.hidden.bias.tolist(), strict=True)
        ]
        raw = sum(w * h for w, h in zip(tau.output.weight[0].tolist(), hidden, strict=True))
        expected.append(1 + 20 / (1 + math.exp(-raw - tau.output.bias.item())))
    value = tau(preds_S, preds_T)
    assert value.shape == (5, 1)
    assert value.squeeze(1).tolist() == pytest.approx(expected, rel=1e-12)
    assert len(set(expected)) == 5


def test_starts_around_its_initial_value():
    tau = instance(init=-2.0, start=3.0, end=4.0)
    tau.output.weight.data.zero_()
    expected = 3 + 4 / (1 + math.exp(2))
    assert tau(*wave_logits()).squeeze(1).tolist() == pytest.approx([expected] * 5, rel=1e-12)


def test_students_gradient_is_that_of_fixed_temperatures():
    preds_S, preds_T = wave_logits()
    gradients = []
    tau = instance()
    for temperature in (tau, lambda s, t: tau(s, t).detach()):
        student = preds_S.clone().requires_grad_()
        kd_loss(student, preds_T, temperature(student, preds_T)).mean().backward()
        gradients.append(student.grad)
    torch.testing.assert_close(*gradients, rtol=1e-13, atol=0)


def test_mlp_is_trained_against_the_student():
    preds_S, preds_T = wave_logits()
    gradients = []
    for strength, progress in ((-1.0, FULL), (-0.5, Progress(0, 100, 4, 10))):
        tau = instance()
        loss = KDLoss(tau)
        tau.set_progress(progress)
        loss(preds_S, preds_T).backward()
        weight = tau.hidden.weight
        gradients.append(weight.grad / strength)
        with torch.no_grad():
            before = loss(preds_S, preds_T).item()
            weight -= 1e-6 * weight.grad
            rise = loss(preds_S, preds_T).item() - before
        # A step of gradient descent on the reversed gradient climbs by its length.
        expected = -strength * 1e-6 * (weight.grad / strength).square().sum().item()
        assert rise > 0 and rise == pytest.approx(expected, rel=1e-3)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=0)


# Printed by the loop over samples in the README of zhengli97/CTKD at
# 7d5252241259ae70d38a832371fed9697d15fc14 on wave_logits() and these temperatures:
# the loss, and its gradients at the temperatures and at the second sample's logits.
TAU = [1.5, 4.0, 9.0, 15.0, 20.5]
PUBLISHED_LOSS = 5.509406551314954
PUBLISHED_TAU_GRADIENT = [
    0.11528815570267714, 0.055242377579764024, 0.0028884356365622144, 0.0021647483299939013,
    0.000881466485718338,
]  # fmt: skip
PUBLISHED_LOGIT_GRADIENT = [
    -0.031216273375214484, -0.1612474694426621, -0.12367084980698931, 0.058210578875713896,
    0.16581676883026614, 0.06938356223868965, 0.02272368268019652,
]  # fmt: skip


def test_per_sample_loss_is_the_published_loop_but_for_its_constant():
    preds_S, preds_T = wave_logits()
    student = preds_S.clone().requires_grad_()
    tau = torch.tensor(TAU, dtype=torch.float64).unsqueeze(1).requires_grad_()
    loss = kd_loss(student, preds_T, tau).mean()
    log_S, log_T = (x / tau for x in (student, preds_T))
    difference = log_T.log_softmax(1) - log_S.log_softmax(1)
    # 1e-7 added to p_T changes p_T (log p_T - log p_S) by 1e-7 (log p_T - log p_S + 1).
    constant = (1e-7 * tau.squeeze(1) ** 2 * (difference + 1).sum(1)).mean()
    of_tau, of_logits = torch.autograd.grad(loss + constant, (tau, student), retain_graph=True)
    assert (loss + constant).item() == pytest.approx(PUBLISHED_LOSS, abs=1e-10)
    assert of_tau.squeeze(1).tolist() == pytest.approx(PUBLISHED_TAU_GRADIENT, abs=1e-10)
    assert of_logits[1].tolist() == pytest.approx(PUBLISHED_LOGIT_GRADIENT, abs=1e-10)
    # And without it the loss is smaller by about one part in 5e4.
    assert 0 < PUBLISHED_LOSS - loss.item() < 2e-4


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_and_autocast_compute_in_float32(dtype):
    preds_S, preds_T = (20 * logits for logits in wave_logits(dtype))
    tau = instance().float()
    loss = KDLoss(tau)
    expected = tau(preds_S.float(), preds_T.float())
    with torch.autocast('cpu', torch.bfloat16):
        value = loss(preds_S, preds_T)
    value.backward()
    assert tau.last.dtype == torch.float32 and torch.equal(tau.last, expected)
    assert torch.isfinite(value) and torch.isfinite(tau.hidden.weight.grad).all()
    tau.half()
    assert torch.isfinite(loss(preds_S, preds_T))


def test_empty_batch_is_empty():
    assert instance()(torch.zeros(0, 7), torch.zeros(0, 7)).shape == (0, 1)


def test_default_width_and_config():
    loss = MODELS.build(
        dict(
            type='kd_plugins.DKDLoss',
            tau=dict(type='kd_plugins.InstanceTemperature', num_classes=10),
        )
    )
    shapes = [tuple(p.shape) for p in loss.tau.parameters()]
    assert shapes == [(128, 20), (128,), (1, 128), (1,)]


@pytest.mark.parametrize('classes', [5, 8])
def test_other_classes_are_refused(classes):
    logits = torch.zeros(2, classes)
    with pytest.raises(ValueError, match=rf'num_classes=7 does not fit.*\(2, {classes}\)'):
        instance()(logits, logits)


@pytest.mark.parametrize(
    ('key', 'value'),
    [('num_classes', 1), ('num_classes', 2.0), ('hidden', 0), ('hidden', True), ('inputs', 'both'),
     ('start', 0.0), ('end', -1.0), ('init', math.nan)],
)  # fmt: skip
def test_bad_settings_are_refused_by_name(key, value):
    with pytest.raises(ValueError, match=rf'InstanceTemperature\.{key}='):
        InstanceTemperature(**{'num_classes': 7, key: value})
