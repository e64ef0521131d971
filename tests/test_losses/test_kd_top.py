"""KD on the teacher's largest logits and what all others amount to."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from kd_plugins.losses.kd import KDLoss, kd_loss, kd_top_loss
from kd_plugins.structures import TopLogits
from kd_plugins.teachers.encoding import NotStorableError, Top


def logits(seed=0, size=5, classes=9, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(size, classes, generator=generator, dtype=torch.float64)


def naive(preds_S, preds_T, k, tau):
    """Sum over the teacher's k first classes, and once over all others together."""
    losses = []
    for z_S, z_T in zip((preds_S / tau).tolist(), (preds_T / tau).tolist(), strict=True):
        first = sorted(range(len(z_T)), key=lambda c: -z_T[c])[:k]
        total_S, total_T = (sum(math.exp(z) for z in each) for each in (z_S, z_T))
        loss, left_S, left_T = 0.0, 1.0, 1.0
        for c in first:
            p_S, p_T = math.exp(z_S[c]) / total_S, math.exp(z_T[c]) / total_T
            loss += p_T * math.log(p_T / p_S)
            left_S, left_T = left_S - p_S, left_T - p_T
        losses.append(tau**2 * (loss + left_T * math.log(left_T / left_S)))
    return torch.tensor(losses, dtype=torch.float64)


@pytest.mark.parametrize('tau', [1.0, 4.0])
@pytest.mark.parametrize('k', [1, 3, 8])
def test_it_is_the_divergence_with_all_other_classes_as_one(k, tau):
    preds_S, preds_T = logits(0), logits(1)
    top = Top(k, [2.0, tau])(preds_T)
    torch.testing.assert_close(kd_top_loss(preds_S, top, tau), naive(preds_S, preds_T, k, tau))


def test_it_is_below_the_whole_divergence_and_reaches_it_with_one_class_left():
    preds_S, preds_T = logits(2), logits(3)
    whole = kd_loss(preds_S, preds_T, 2.0)
    few = [kd_top_loss(preds_S, Top(k, [2.0])(preds_T), 2.0) for k in range(1, 9)]
    for less, more in zip(few, [*few[1:], whole], strict=True):
        assert (less <= more + 1e-12).all()
    assert (few[0] < whole).all()
    torch.testing.assert_close(few[-1], whole)


def test_its_gradient_is_right_and_finite_for_extreme_logits():
    preds_T = logits(4)
    top = Top(3, [2.0])(preds_T)
    preds_S = logits(5).requires_grad_()
    assert gradcheck(lambda z: kd_top_loss(z, top, 2.0), (preds_S,))
    for scale in (0.0, 1e4):
        extreme = (logits(6) * scale).requires_grad_()
        loss = kd_top_loss(extreme, Top(3, [1.0])(logits(7, scale=1e3)), 1.0).sum()
        loss.backward()
        assert loss.isfinite() and extreme.grad.isfinite().all()
    same = logits(8).requires_grad_()
    kd_top_loss(same, Top(3, [1.0])(same.detach().clone()), 1.0).sum().backward()
    torch.testing.assert_close(same.grad, torch.zeros_like(same), atol=1e-9, rtol=0)


def test_the_term_takes_either():
    preds_S, preds_T = logits(0).float(), logits(1).float()
    term = KDLoss(tau=4.0, loss_weight=0.5)
    top = Top(8, [1.0, 4.0])(preds_T)
    torch.testing.assert_close(term(preds_S, top), term(preds_S, preds_T))
    with torch.autocast('cpu', torch.bfloat16):
        half = term(preds_S.bfloat16(), top)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, term(preds_S, preds_T), rtol=0.05, atol=0)
    agreed = term.diagnose(preds_S, top)['agreement']
    assert agreed == term.diagnose(preds_S, preds_T)['agreement']
    empty = TopLogits(top.values[:0], top.indices[:0], top.rest[:0], top.taus, 9)
    nothing = preds_S[:0].requires_grad_()
    term(nothing, empty).backward()
    assert term(nothing, empty) == 0
    with pytest.raises(ValueError, match=r'shape \(5, 8\).* are of 5 samples and 9 classes'):
        term(preds_S[:, :8], top)
    with pytest.raises(ValueError, match=r'preds_S has the shape \(4, 9\)'):
        term(preds_S[:4], top)


def test_what_has_not_more_classes_is_refused():
    with pytest.raises(NotStorableError, match=r'shape \(5, 9\), of which top_k=9 keeps nothing'):
        Top(9, [1.0])(logits())
