"""FixMatch's loss, ANL and EML, which make FullMatch, against the published functions and laws."""

import math

import pytest
import torch
from helpers.two_views import numbers

from kd_plugins.connectors import FlexiblePseudoLabels, PseudoLabels
from kd_plugins.losses import ANLLoss, EMLLoss, FixMatchLoss, anl_loss, eml_loss, fixmatch_loss
from kd_plugins.structures import PseudoLabelled, ViewLogits

TERMS = (FixMatchLoss, ANLLoss, EMLLoss)

# Printed by consistency_loss, cal_topK and nl_em_loss of models/fullmatch/fullmatch_utils.py and
# models/fullflex/fullflex_utils.py, megvii-research/FullMatch at c54c0b9, in float64 with torch
# in the place of MegEngine: pictures, classes, scale, cutoff, k; then for a cutoff and for one by
# class the share of labels that are learnt, the three losses, and the projections of their
# gradients on a wave.
PUBLISHED = [
    (6, 5, 4.0, 0.6, 2,
     (1.0, [1.1335341456279757, 0.15205615007301523, 0.36545554364977967],
      [-0.6458665890689343, -0.0919802328032343, 0.060158584237345596]),
     (1.0, [1.1335341456279757, 0.15205615007301523, 0.36545554364977967],
      [-0.6458665890689343, -0.0919802328032343, 0.060158584237345596])),
    (9, 10, 9.0, 0.6, 4,
     (5 / 9, [0.4681137694872606, 0.045330913185739646, 0.9347833997155854],
      [-0.18472706102387562, -0.025132688290628157, -0.2815102831044467]),
     (8 / 9, [1.3311286838840963, 0.045330913185739646, 1.0534829412169608],
      [-0.33940761222223226, -0.025132688290628157, -0.22201605751319847])),
    (5, 3, 14.0, 0.6, 3,
     (1.0, [5.214900994347912, 0.0, 1.461316890303607],
      [-0.7982969082142586, 0.0, -0.08176341312970045]),
     (1.0, [5.214900994347912, 0.0, 1.461316890303607],
      [-0.7982969082142586, 0.0, -0.08176341312970045])),
    (7, 8, 1.0, 0.25, 4,
     (5 / 7, [1.0745796778810042, 0.12202864897635579, 0.0],
      [-0.4298702509220693, 0.020781972712660853, 0.0]),
     (1.0, [1.551442407557351, 0.12202864897635579, 0.0],
      [-0.5613790277290738, 0.020781972712660853, 0.0])),
    (12, 20, 3.0, 0.6, 8,
     (0.0, [0.0, 0.20514067807609584, 0.0], [0.0, -0.13498240144004736, 0.0]),
     (5 / 12, [0.8732784561443357, 0.20514067807609584, 0.40724698947185095],
      [-0.2548576130331912, -0.13498240144004736, -0.020121598392072])),
]  # fmt: skip


def logits(pictures, classes, scale):
    strong = numbers((pictures, classes), 0.3, scale)
    return strong, 0.3 * strong + numbers((pictures, classes), 1.1, scale)


def views(weak, strong, indices=None):
    numbers_of = tuple(range(len(weak))) if indices is None else tuple(indices)
    return ViewLogits(weak[:0], weak, strong, numbers_of)


def by_class(classes, cutoff):
    """Labels with a cutoff for each class: class c has c pictures, and C have none yet."""
    label = FlexiblePseudoLabels(sum(range(classes + 1)), cutoff)
    counted = torch.arange(classes).repeat_interleave(torch.arange(classes))
    label.latest[: len(counted)] = counted
    return label


@pytest.mark.parametrize('case', PUBLISHED, ids=lambda case: f'{case[0]}x{case[1]}')
@pytest.mark.parametrize('flexible', [False, True])
def test_agrees_with_the_published_functions(case, flexible):
    pictures, classes, scale, cutoff, k, *answers = case
    selected, losses, projections = answers[flexible]
    strong, weak = logits(pictures, classes, scale)
    label = by_class(classes, cutoff) if flexible else PseudoLabels(cutoff)
    pseudo = label(views(weak, strong))
    assert int(pseudo.k) == k
    torch.testing.assert_close(pseudo.selected.double().mean().item(), selected)
    for term, loss, projection in zip(TERMS, losses, projections, strict=True):
        preds_S = strong.clone().requires_grad_()
        got = term(loss_weight=2.0)(preds_S, pseudo)
        got.backward()
        seen = (preds_S.grad * numbers(preds_S.shape, 2.0, 1.0)).sum()
        assert math.isclose(got.item(), 2 * loss, rel_tol=1e-9, abs_tol=1e-12)
        assert math.isclose(seen.item(), 2 * projection, rel_tol=1e-6, abs_tol=1e-9)


def test_by_hand():
    """Loops over pictures and classes, and gradients by differences."""
    strong, weak = logits(4, 6, 3.0)
    cutoff = 0.55
    pseudo = PseudoLabels(cutoff)(views(weak, strong))

    def by_hand(preds):
        k, places, rows = 2, [], []
        for s, w in zip(preds, weak, strict=True):
            label = max(range(6), key=lambda c: w[c].item())
            order = sorted(range(6), key=lambda c: -s[c].item())
            places.append(order.index(label) + 1)
            rows.append((label, sorted(range(6), key=lambda c: -w[c].item())))
        k = max(2, *places)
        fix, anl, eml = 0.0, 0.0, []
        for s, w, (label, order) in zip(preds, weak, rows, strict=True):
            p, sure = s.softmax(0), w.softmax(0)[label] >= cutoff
            fix = fix - sure * p[label].log() / 4
            for c in order[k:]:
                anl = anl - (p[c] <= cutoff**2) * (1 - p[c] + 1e-10).log() / 4
            rest = 1 - p[label] - sum(p[c] for c in order[k:]) + 1e-7
            u = rest / (k - 1)
            eml += [
                -(u * (p[c] + 1e-10).log() + (1 - u) * (1 - p[c] + 1e-10).log())
                for c in order[:k]
                if c != label and sure and p[c] <= cutoff**2
            ]
        return fix, anl, sum(eml) / (len(eml) + 1e-10)

    for i, term in enumerate(TERMS):
        preds = strong.clone().requires_grad_()
        wanted = by_hand(preds)[i]
        wanted.backward()
        ours = strong.clone().requires_grad_()
        got = term()(ours, pseudo)
        got.backward()
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(ours.grad, preds.grad, rtol=1e-7, atol=1e-10)
        assert wanted != 0
    pure = (
        fixmatch_loss(strong, pseudo.labels, pseudo.selected).mean(),
        anl_loss(strong, pseudo.candidates, cutoff).mean(),
        eml_loss(strong, pseudo.labels, pseudo.selected, pseudo.candidates, pseudo.k, cutoff),
    )
    for value, wanted in zip(pure, by_hand(strong), strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-9, atol=1e-12)


def test_where_every_class_is_a_candidate_no_class_is_a_negative():
    strong = torch.eye(4, dtype=torch.float64) * 5
    weak = strong.flip(0)
    # Of the strong view the label is the last of four, all others being above: k is C.
    strong = strong - 9 * torch.eye(4, dtype=torch.float64).flip(0)
    pseudo = PseudoLabels(0.5)(views(weak, strong))
    assert int(pseudo.k) == 4 and pseudo.candidates.all()
    assert ANLLoss()(strong, pseudo) == 0 < EMLLoss()(strong, pseudo)


@pytest.mark.parametrize('term', TERMS)
def test_no_label_or_no_picture_gives_0_with_a_gradient(term):
    strong, weak = logits(3, 5, 0.1)
    for rows in (3, 0):
        preds_S = strong[:rows].clone().requires_grad_()
        pseudo = PseudoLabels(0.99)(views(weak[:rows], preds_S))
        loss = term()(preds_S, pseudo)
        loss.backward()
        assert torch.isfinite(preds_S.grad).all()
        assert loss == 0 or (term is ANLLoss and rows)
    assert int(pseudo.k) == 2


@pytest.mark.parametrize('term', TERMS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_extreme_and_half_precise_logits(term, dtype):
    strong, weak = (x.to(dtype) for x in logits(6, 5, 300.0))
    preds_S = strong.clone().requires_grad_()
    loss = term()(preds_S, PseudoLabels(0.5)(views(weak, strong)))
    loss.backward()
    assert loss.dtype == torch.float32 and torch.isfinite(loss)
    assert torch.isfinite(preds_S.grad).all()
    strong, weak = (x.to(dtype) for x in logits(6, 5, 3.0))
    got = term()(strong, PseudoLabels(0.5)(views(weak, strong)))
    exact = term()(strong.double(), PseudoLabels(0.5)(views(weak.double(), strong.double())))
    torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-6)


def test_logits_that_are_not_finite_are_seen():
    strong, weak = logits(4, 5, 2.0)
    strong[1, 2] = torch.nan
    losses = [term()(strong, PseudoLabels(0.1)(views(weak, strong))) for term in TERMS]
    assert all(torch.isnan(loss) for loss in losses)


def test_says_k_how_many_are_learnt_and_how_many_agree():
    strong, weak = logits(9, 10, 9.0)
    pseudo = PseudoLabels(0.6)(views(weak, strong))
    said = FixMatchLoss().diagnose(strong, pseudo)
    agreed = (strong.argmax(1) == weak.argmax(1)).double().mean()
    assert said['k'] == 4 and said['agreement'] == pytest.approx(100 * agreed.item())
    assert said['mask_rate'] == pytest.approx(100 * 5 / 9)


@pytest.mark.parametrize('term', TERMS)
def test_other_records_are_refused(term):
    strong, weak = logits(4, 5, 2.0)
    pseudo = PseudoLabels()(views(weak, strong))
    name = term.__name__
    with pytest.raises(ValueError, match=rf'{name} needs .* preds_S has \(3, 5\) and pseudo is of'):
        term()(strong[:3], pseudo)
    with pytest.raises(ValueError, match=rf'{name} needs .* pseudo is a Tensor'):
        term()(strong, weak)
    with pytest.raises(ValueError, match=rf'{name}.preds_S is a ViewLogits, not a tensor'):
        term()(views(weak, strong), pseudo)
    with pytest.raises(ValueError, match=rf'{name}.loss_weight=-1'):
        term(loss_weight=-1.0)
    assert isinstance(pseudo, PseudoLabelled)
