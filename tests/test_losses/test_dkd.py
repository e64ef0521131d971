"""DKD."""

import warnings

import pytest
import torch
from helpers import oracles
from test_kd import Learned, wave_logits

from kd_plugins.losses import DKDLoss, dkd_loss, kd_loss
from kd_plugins.structures import Progress

LABELS = torch.tensor([0, 3, 6, 2, 2])


@pytest.mark.parametrize('tau', [0.5, 1.0, 4.0])
def test_both_parts_are_the_naive_loop(tau):
    preds_S, preds_T = wave_logits()
    rows = zip(preds_S.tolist(), preds_T.tolist(), LABELS.tolist(), strict=True)
    expected = [oracles.tckd_nckd(s, t, label, tau) for s, t, label in rows]
    tckd, nckd = dkd_loss(preds_S, preds_T, LABELS, tau)
    assert tckd.tolist() == pytest.approx([row[0] for row in expected], rel=1e-10)
    assert nckd.tolist() == pytest.approx([row[1] for row in expected], rel=1e-10)


# Printed by dkd_loss of mdistiller/distillers/DKD.py, megvii-research/mdistiller at
# a08d46f10d6102bd6e3f258ca5ac880b020ea259, with alpha 1 and beta 8: the loss, and
# the gradient at the second sample's logits.
PUBLISHED = {
    1.0: (
        17.04139181793341,
        [-0.09087697242517827, -0.8422201344007542, -0.5245004862536511, 0.03945721469020559,
         1.3523707959684619, 0.061804422465577255, 0.003965159955338711],
    ),
    4.0: (
        34.817688559208406,
        [-0.1972846331637052, -1.4628747152544082, -1.1009303673870845, 0.05821053785334618,
         1.7215655285627929, 0.7280702243053269, 0.25324342508373343],
    ),
}  # fmt: skip


@pytest.mark.parametrize('tau', sorted(PUBLISHED))
def test_agrees_with_the_published_code(tau):
    preds_S, preds_T = wave_logits()
    preds_S.requires_grad_()
    loss = DKDLoss(tau, alpha=1.0, beta=8.0)(preds_S, preds_T, LABELS)
    loss.backward()
    value, gradient = PUBLISHED[tau]
    assert loss.item() == pytest.approx(value, rel=1e-12)
    assert preds_S.grad[1].tolist() == pytest.approx(gradient, rel=1e-9)


@pytest.mark.parametrize('tau', [1.0, 4.0])
def test_kd_is_tckd_plus_the_rest_times_nckd(tau):
    preds_S, preds_T = wave_logits()
    tckd, nckd = dkd_loss(preds_S, preds_T, LABELS, tau)
    p_target = (preds_T / tau).softmax(1).gather(1, LABELS[:, None]).squeeze(1)
    torch.testing.assert_close(
        tckd + (1 - p_target) * nckd, kd_loss(preds_S, preds_T, tau), rtol=1e-12, atol=0
    )


def test_gradients_are_finite_differences_of_the_values():
    preds_S, preds_T = wave_logits()
    tau = torch.tensor(3.0, dtype=torch.float64)
    inputs = [x.clone().requires_grad_() for x in (preds_S, preds_T, tau)]
    assert torch.autograd.gradcheck(lambda s, t, tau: dkd_loss(s, t, LABELS, tau), inputs)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('classes', [2, 10])
@pytest.mark.parametrize('label', [0, 1])
@pytest.mark.parametrize('opposed', [False, True])
def test_extreme_logits_stay_finite(dtype, classes, label, opposed):
    preds_S = torch.full((3, classes), -80.0)
    preds_S[:, 0] = 80
    preds_T = preds_S.roll(1, dims=1) if opposed else preds_S * 0.5
    preds_S = preds_S.to(dtype).requires_grad_()
    temperature = Learned(1.0)
    loss = DKDLoss(tau=temperature, beta=1.0)(preds_S, preds_T.to(dtype), torch.full((3,), label))
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss) and torch.isfinite(preds_S.grad).all()
    assert torch.isfinite(temperature.value.grad)


def test_confident_student_costs_what_the_formula_says():
    # p_target of the student rounds to 1 even in float64: the published code is
    # infinite here. By hand: TCKD = KL((1/2, 1/2) || (1 - e^-100, e^-100)).
    preds_S = torch.tensor([[100.0, 0.0]], dtype=torch.float64)
    preds_T = torch.tensor([[0.0, 0.0]], dtype=torch.float64)
    tckd, nckd = dkd_loss(preds_S, preds_T, torch.tensor([0]), 1.0)
    assert tckd.item() == pytest.approx(50 - 0.6931471805599453, rel=1e-12)
    assert nckd.item() == 0


def test_two_classes_have_no_others_and_it_says_so_once():
    preds_S = torch.randn(4, 2, requires_grad=True)
    preds_T = torch.randn(4, 2)
    labels = torch.tensor([0, 1, 1, 0])
    loss = DKDLoss(2.0, beta=8.0)
    with pytest.warns(UserWarning, match='2 classes.*beta=8 has no effect'):
        value = loss(preds_S, preds_T, labels)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert loss(preds_S, preds_T, labels).item() == value.item()
    assert value.item() == pytest.approx(kd_loss(preds_S, preds_T, 2.0).mean().item(), rel=1e-5)


def test_mixed_labels_mix_the_losses():
    preds_S, preds_T = wave_logits()
    share = torch.tensor([0.7, 0.5, 1.0, 0.2, 0.9], dtype=torch.float64)
    other = LABELS.roll(1)
    mixed = torch.zeros(5, 7, dtype=torch.float64)
    mixed[torch.arange(5), LABELS] += share
    mixed[torch.arange(5), other] += 1 - share
    expected = 0.0
    rows = zip(preds_S.tolist(), preds_T.tolist(), mixed.tolist(), strict=True)
    for s, t, weights in rows:
        for label, weight in enumerate(weights):
            tckd, nckd = oracles.tckd_nckd(s, t, label, 2.0)
            expected += weight * (0.5 * tckd + 3.0 * nckd) / 5
    loss = DKDLoss(2.0, alpha=0.5, beta=3.0)(preds_S, preds_T, mixed)
    assert loss.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ('labels', 'says'),
    [
        (torch.full((5, 7), 1 / 7), 'more than two classes'),
        (torch.zeros(5), r'\(N,\)'),
        (torch.zeros(4, dtype=torch.long), r'\(4,\)'),
        (torch.zeros(5, 3), r'\(5, 3\)'),
    ],
)
def test_labels_that_are_none_are_refused(labels, says):
    with pytest.raises(ValueError, match=rf'DKDLoss\.gt_labels.*{says}'):
        DKDLoss()(*wave_logits(), labels)


@pytest.mark.parametrize('labels', [torch.tensor([3]), torch.eye(7)[:1], torch.eye(7)[:4]])
def test_labels_of_some_pictures_are_refused_in_later_batches_too(labels):
    """One label would be compared with every picture."""
    loss, preds = DKDLoss(), wave_logits()
    loss(*preds, torch.arange(5))
    with pytest.raises(ValueError, match=r'no label, as of a task of a MultiTaskHead, .*KDLoss'):
        loss(*preds, labels)


def test_empty_batch_is_zero_with_a_gradient():
    preds_S = torch.zeros(0, 7, requires_grad=True)
    loss = DKDLoss()(preds_S, torch.zeros(0, 7), torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0 and preds_S.grad.shape == (0, 7)


def at(epoch, max_epochs=240, iter=0, max_iters=1000):
    return Progress(iter=iter, max_iters=max_iters, epoch=epoch, max_epochs=max_epochs)


def test_warm_up_counts_epochs_from_one():
    preds = wave_logits()
    plain = DKDLoss()(*preds, LABELS).item()
    loss = DKDLoss(warmup=20)
    for epoch, factor in ((0, 0.05), (9, 0.5), (19, 1.0), (200, 1.0)):
        loss.set_progress(at(epoch))
        assert loss(*preds, LABELS).item() == pytest.approx(factor * plain, rel=1e-12)


def test_warm_up_in_iterations():
    preds = wave_logits()
    plain = DKDLoss()(*preds, LABELS).item()
    loss = DKDLoss(warmup=dict(length=4, by_epoch=False))
    for iteration, factor in ((0, 0.25), (3, 1.0), (900, 1.0)):
        loss.set_progress(at(0, max_epochs=1, iter=iteration))
        assert loss(*preds, LABELS).item() == pytest.approx(factor * plain, rel=1e-12)


@pytest.mark.parametrize('progress', [dict(max_epochs=19), dict(max_epochs=19, iter=7)])
def test_a_warm_up_longer_than_the_training_is_refused(progress):
    loss = DKDLoss(warmup=20)
    loss.set_progress(at(0, **progress))
    says = r'DKDLoss\.warmup=20 is longer than the training, which has 19 epochs.*at most 19'
    with pytest.raises(ValueError, match=says):
        loss(*wave_logits(), LABELS)


def test_warm_up_without_epochs_is_refused():
    loss = DKDLoss(warmup=20)
    loss.set_progress(at(0, max_epochs=1))
    with pytest.raises(ValueError, match=r'DKDLoss\.warmup=20 counts epochs.*by_epoch=False'):
        loss(*wave_logits(), LABELS)


def test_warm_up_that_nobody_drives_is_refused():
    with pytest.raises(RuntimeError, match=r'DKDLoss\.warmup=20.*SingleTeacherDistill'):
        DKDLoss(warmup=20)(*wave_logits(), LABELS)


@pytest.mark.parametrize('warmup', [0, -1, 2.5, True, dict(by_epoch=False), dict(length=2, x=1)])
def test_bad_warm_up_is_refused_by_name(warmup):
    with pytest.raises(ValueError, match=r'DKDLoss\.warmup='):
        DKDLoss(warmup=warmup)
