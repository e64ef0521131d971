"""BCKD."""

import math

import pytest
import torch
from helpers import published_bckd as published
from helpers.published_bckd import BINS, CASES, IMAGES, LEVELS, wave

from kd_plugins.losses import (
    BCKDClassificationLoss,
    BCKDLocalizationLoss,
    LDLoss,
    binary_classification_kd,
    localization_weight,
)
from kd_plugins.losses.bckd import iou_losses
from kd_plugins.registry import MODELS
from kd_plugins.structures import HeadOutputs, HeadTargets

IOU_LOSSES = [
    'GIoULoss', 'IoULoss', 'DIoULoss', 'CIoULoss', 'EIoULoss', 'SIoULoss', 'BoundedIoULoss',
]  # fmt: skip


def in_a_row(levels, channels):
    return torch.cat([x.permute(0, 2, 3, 1).reshape(IMAGES, -1, channels) for x in levels], dim=1)


def decoded(bins):
    """Boxes of every anchor, by the formula: expected distances from the grid's corner."""
    boxes = []
    for level, (size, stride) in zip(bins, LEVELS, strict=True):
        corners = published.anchors(size, stride)
        centre = (corners[:, :2] + corners[:, 2:]) / 2 / stride
        p = level.permute(0, 2, 3, 1).reshape(IMAGES, -1, 4, BINS).softmax(dim=-1)
        d = (p * torch.arange(BINS)).sum(dim=-1)
        corners = torch.cat([centre - d[..., :2], centre + d[..., 2:]], dim=-1)
        boxes.append(corners.to(level.dtype))
    return torch.cat(boxes, dim=1)


def records(case='everywhere', dtype=torch.float64, rounded_to=torch.float64):
    """Both records of a published case, and the student's leaves."""
    labels, weights = published.targets(case)
    positive = torch.cat(labels, dim=1) < published.CLASSES
    sizes = tuple(level.shape[1] for level in labels)
    num_pos = positive.sum(dim=1).clamp(min=1).sum().to(torch.promote_types(dtype, torch.float32))
    targets = HeadTargets(positive, torch.cat(weights, dim=1).to(dtype), sizes, num_pos)
    sides = []
    for seed in (0, 5):
        cls, bins = published.predictions(seed)
        cls, bins = [[x.to(rounded_to).to(dtype) for x in levels] for levels in (cls, bins)]
        if seed == 0:
            leaves = [[x.requires_grad_() for x in levels] for levels in (cls, bins)]
        bin_logits = in_a_row(bins, 4 * BINS).unflatten(2, (4, BINS))
        upcast = [x if dtype == torch.float64 else x.float() for x in bins]
        sides.append(
            HeadOutputs(
                'GFLHead', sizes, in_a_row(cls, published.CLASSES),
                lambda bins=upcast: decoded(bins), bin_logits, targets if seed == 0 else None,
            )
        )  # fmt: skip
    return *sides, leaves


# The loss; and of every level, the gradient times wave(..., seed=9 + level), and
# the sum of its magnitudes: at class logits (cls), and at bin logits (loc).
PUBLISHED = {
    'everywhere': dict(
        cls=(16.55844412062753, [0.09412815292776733, 0.0751907678006081, 0.10719031533865685],
             [7.301756090709366, 1.7248373684795368, 0.6979834442717081]),
        loc=(9.336596968413247, [-0.11109708367519036, 0.17239028379543594, 0.11803908680432923],
             [10.613824722251678, 3.0846461317935607, 0.8884239758672989]),
    ),
    'a level without': dict(
        cls=(20.786472252640444, [0.14119222798903197, 0.0, 0.16078547141072513],
             [10.952634027259407, 0.0, 1.0469751560067988]),
        loc=(11.928661518749873, [-0.16664562385731035, 0.0, 0.17705862844757442],
             [15.920736925219211, 0.0, 1.3326359505624]),
    ),
    'an empty image': dict(
        cls=(18.906208847387013, [0.14119222798903197, 0.0, 0.0], [10.952634027259407, 0.0, 0.0]),
        loc=(10.695601206893734, [-0.16664562385731035, 0.0, 0.0], [15.920736925219211, 0.0, 0.0]),
    ),
    'nothing': dict(
        cls=(0.0, [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]), loc=(0.0, [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
    ),
}  # fmt: skip
TERMS = dict(cls=BCKDClassificationLoss, loc=BCKDLocalizationLoss)


@pytest.mark.parametrize('part', TERMS)
@pytest.mark.parametrize('case', CASES)
def test_losses_and_gradients_are_the_published_ones(part, case):
    preds_S, preds_T, leaves = records(case)
    loss = TERMS[part]()(preds_S, preds_T)
    wanted, other = leaves if part == 'cls' else leaves[::-1]
    grads = torch.autograd.grad(loss, wanted, retain_graph=True)
    expected, dots, sizes = PUBLISHED[case][part]
    assert loss.item() == pytest.approx(expected, rel=1e-10, abs=1e-10)
    for i, (grad, dot, size) in enumerate(zip(grads, dots, sizes, strict=True)):
        assert (grad * wave(*grad.shape, seed=9 + i)).sum().item() == pytest.approx(dot, abs=1e-10)
        assert grad.abs().sum().item() == pytest.approx(size, rel=1e-10)
    # The published weights of the boxes carry no gradient to the classes.
    assert torch.autograd.grad(loss, other, allow_unused=True) == (None,) * len(LEVELS)


def test_classification_is_the_naive_loop():
    z_S, z_T = wave(4, 3, seed=1) * 3, wave(4, 3, seed=2) * 4
    values = binary_classification_kd(z_S, z_T)
    for row_S, row_T, value in zip(z_S.tolist(), z_T.tolist(), values.tolist(), strict=True):
        expected = 0.0
        for s, t in zip(row_S, row_T, strict=True):
            p, q = 1 / (1 + math.exp(-t)), 1 / (1 + math.exp(-s))
            expected += -(p * math.log(q) + (1 - p) * math.log(1 - q)) * abs(p - q)
        assert value == pytest.approx(expected, rel=1e-12)


def test_the_modulating_factor_passes_a_gradient():
    z_S, z_T = wave(4, 3, seed=1).requires_grad_(), wave(4, 3, seed=2)
    assert torch.autograd.gradcheck(lambda z: binary_classification_kd(z, z_T), z_S)


def test_the_weight_of_boxes_is_the_largest_difference_and_constant():
    z_S, z_T = wave(2, 4, 3, seed=1).requires_grad_(), wave(2, 4, 3, seed=2)
    weight = localization_weight(z_S, z_T)
    expected = [[max(abs(1 / (1 + math.exp(-t)) - 1 / (1 + math.exp(-s)))
                     for s, t in zip(of_S, of_T, strict=True))
                 for of_S, of_T in zip(image_S, image_T, strict=True)]
                for image_S, image_T in zip(z_S.tolist(), z_T.tolist(), strict=True)]  # fmt: skip
    torch.testing.assert_close(weight, torch.tensor(expected, dtype=torch.float64))
    assert not weight.requires_grad


@pytest.mark.parametrize('term', TERMS.values())
def test_weight_is_a_factor_and_0_keeps_the_graph(term):
    preds_S, preds_T, leaves = records()
    one, two, none = (term(loss_weight=w)(preds_S, preds_T) for w in (1.0, 2.0, 0.0))
    torch.testing.assert_close(two, 2 * one)
    assert none.item() == 0 and none.requires_grad


@pytest.mark.parametrize('term', TERMS.values())
def test_the_teacher_gets_no_gradient(term):
    preds_S, preds_T, _ = records()
    logits = preds_T.cls_logits.clone().requires_grad_()
    boxes = preds_T.boxes.clone().requires_grad_()
    leaf_T = HeadOutputs('GFLHead', preds_T.level_sizes, logits, lambda: boxes)
    grads = torch.autograd.grad(term()(preds_S, leaf_T), [logits, boxes], allow_unused=True)
    assert grads == (None, None)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_left_at_once(dtype):
    half, full = records(dtype=dtype), records(dtype=torch.float32, rounded_to=dtype)
    for term in (*TERMS.values(), LDLoss):
        loss = term()(*half[:2])
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, term()(*full[:2]), rtol=1e-6, atol=0)
        leaves = [*half[2][0], *half[2][1]]
        grads = torch.autograd.grad(loss, leaves, allow_unused=True)
        used = [grad for grad in grads if grad is not None]
        assert used and all(torch.isfinite(grad).all() for grad in used)


@pytest.mark.parametrize('value', [0.0, 1e4])
def test_confident_logits_stay_finite(value):
    z_S = torch.tensor([[value, -value, value, -value]], requires_grad=True)
    z_T = torch.tensor([[value, value, -value, -value]])
    loss = binary_classification_kd(z_S, z_T).sum()
    loss.backward()
    assert loss.item() == 2 * value and torch.isfinite(z_S.grad).all()


BOXES = dict(
    equal=([0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 4.0]),
    points=([2.0, 2.0, 2.0, 2.0], [2.0, 2.0, 2.0, 2.0]),
    student_is_a_point=([1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 4.0, 4.0]),
    teacher_is_a_point=([0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 1.0, 1.0]),
    lines=([0.0, 1.0, 4.0, 1.0], [1.0, 0.0, 1.0, 4.0]),
    same_centre=([0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 3.0, 3.0]),
    far_apart=([-1e6, -1e6, 1e6, 1e6], [0.0, 0.0, 1.0, 1.0]),
    inverted=([3.0, 3.0, 1.0, 1.0], [0.0, 0.0, 4.0, 4.0]),
)


@pytest.mark.parametrize('kind', IOU_LOSSES)
def test_every_iou_loss_of_mmdet_is_finite_on_any_boxes(kind):
    term = BCKDLocalizationLoss(dict(type=f'mmdet.{kind}'))
    boxes_S, boxes_T = (torch.tensor([pair[i] for pair in BOXES.values()]) for i in (0, 1))
    boxes_S.requires_grad_()
    values = iou_losses(term.loss_iou, boxes_S, boxes_T)
    (grad,) = torch.autograd.grad(values.sum(), boxes_S)
    assert torch.isfinite(values).all() and torch.isfinite(grad).all()
    assert values[:2].tolist() == [0.0, 0.0] and not grad[:2].any()
    # Elsewhere it is mmdet's own.
    term.loss_iou.reduction = 'none'
    theirs = term.loss_iou(boxes_S[5:6], boxes_T[5:6]).sum()
    torch.testing.assert_close(values[5], theirs)


@pytest.mark.parametrize('term', [*TERMS.values(), LDLoss])
def test_no_positive_anywhere_is_0_with_a_gradient_of_0(term):
    preds_S, preds_T, leaves = records('nothing')
    loss = term()(preds_S, preds_T)
    assert loss.item() == 0
    leaf = leaves[0] if term is BCKDClassificationLoss else leaves[1]
    grads = torch.autograd.grad(loss, leaf)
    assert not any(grad.any() for grad in grads)


def test_ignored_anchors_count_nothing():
    preds_S, preds_T, leaves = records()
    for term in TERMS.values():
        loss = term()(preds_S, preds_T)
        leaf = leaves[0] if term is BCKDClassificationLoss else leaves[1]
        grads = torch.autograd.grad(loss, leaf, retain_graph=True)
        # As listed in published_bckd: image, row, column of the first level.
        assert not grads[0][0, :, 0, 3].any() and not grads[0][1, :, 3, 5].any()
        assert grads[0][0, :, 0, 2].any() and grads[0][1, :, 3, 4].any()


@pytest.mark.parametrize(
    ('cfg', 'says'),
    [
        (dict(loss_weight=-1.0), r'BCKDLocalizationLoss\.loss_weight=-1\.0 is wrong: give a'
         r' finite weight'),
        (dict(loss_iou=dict(type='mmdet.GIoULoss', loss_weight=2.0)),
         r'loss_iou=GIoULoss has loss_weight=2\.0: leave it at 1 and give BCKDLocalizationLoss\.'),
        (dict(loss_iou=dict(type='mmdet.FocalLoss')), r'loss_iou=FocalLoss does not compare boxes'),
        (dict(loss_iou=dict(type='kd_plugins.KDLoss')), r'loss_iou=KDLoss does not compare boxes'),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(cfg, says):
    with pytest.raises(ValueError, match=says):
        MODELS.build(dict(type='kd_plugins.BCKDLocalizationLoss', **cfg))


def test_records_that_do_not_fit_are_refused():
    preds_S, preds_T, _ = records()
    other = HeadOutputs('ATSSHead', (24, 6), preds_T.cls_logits[:, :30], preds_T.decode)
    for term in TERMS.values():
        with pytest.raises(
            ValueError, match=r'GFLHead of the student has \(24, 6, 2\) .* ATSSHead'
        ):
            term()(preds_S, other)
        with pytest.raises(ValueError, match=r'its GFLHead computed none: leave model\.calculate'):
            term()(preds_T, preds_S)


def test_what_is_no_record_of_a_head_is_refused():
    preds_S, preds_T, _ = records()
    for of in TERMS.values():
        with pytest.raises(ValueError, match=r'preds_T is a Tensor: .*kd_plugins.DetectionHead'):
            of()(preds_S, preds_T.cls_logits)
