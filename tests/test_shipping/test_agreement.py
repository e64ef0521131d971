"""What counts as a difference between torch and onnxruntime."""

import pytest
import torch
from mmengine.structures import InstanceData

from kd_plugins.shipping.agreement import LOST, PIXELS, SCORE, Agreement, relative_difference


def test_outputs_differ_relative_to_their_largest_value():
    first = [torch.tensor([1.0, -4.0]), torch.tensor([[100.0]])]
    second = [torch.tensor([1.0, -4.2]), torch.tensor([[101.0]])]
    assert relative_difference(first, second) == pytest.approx(0.05)
    assert relative_difference(first, first) == 0
    assert relative_difference([torch.zeros(2, 0)], [torch.zeros(2, 0)]) == 0
    inf = float('inf')
    assert relative_difference([torch.ones(2)], [torch.ones(3)]) == inf
    assert relative_difference([torch.ones(2)], [torch.tensor([1.0, float('nan')])]) == inf
    assert relative_difference([torch.ones(2)], [torch.tensor([1.0, inf])]) == inf


def detections(number, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corners = 100 * torch.rand(number, 2, generator=generator)
    boxes = torch.cat([corners, corners + 30], 1)
    scores = torch.rand(number, generator=generator)
    return boxes, scores, torch.arange(number) % 3


def compare(expected, found):
    agreement = Agreement()
    boxes, scores, labels = (each[None] for each in found)
    agreement.add_detections(
        [InstanceData(bboxes=expected[0], scores=expected[1], labels=expected[2])],
        boxes, scores, labels,
    )  # fmt: skip
    return agreement


def test_the_order_of_detections_does_not_matter_and_padding_is_none():
    boxes, scores, labels = detections(40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    found = [each[order] for each in (boxes + 0.03, scores - 4e-4, labels)]
    padded = (
        torch.cat([found[0], torch.zeros(5, 4)]),
        torch.cat([found[1], torch.zeros(5)]),
        torch.cat([found[2], torch.full((5,), -1)]),
    )
    agreement = compare((boxes, scores, labels), padded)
    assert (agreement.rows, agreement.lost) == (80, 0) and agreement.agrees
    assert agreement.pixels == pytest.approx(0.03, rel=1e-2)
    assert agreement.rest == pytest.approx(4e-4, rel=1e-2)


@pytest.mark.parametrize('change', ['corner', 'score', 'label', 'missing', 'extra'])
def test_a_detection_without_partner_is_lost(change):
    boxes, scores, labels = detections(10)
    found = [boxes.clone(), scores.clone(), labels.clone()]
    if change == 'corner':
        found[0][3, 2] += 1.1 * PIXELS
    elif change == 'score':
        found[1][3] += 1.1 * SCORE
    elif change == 'label':
        found[2][3] = (found[2][3] + 1) % 3
    elif change == 'missing':
        found = [each[1:] for each in found]
    else:
        found = [torch.cat([each, other[:1]]) for each, other in zip(
            found, detections(1, seed=5), strict=True)]  # fmt: skip
    agreement = compare((boxes, scores, labels), found)
    assert agreement.lost == (1 if change in ('missing', 'extra') else 2)
    assert not agreement.agrees


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('part', [0, 1])
def test_what_is_no_number_has_no_partner(value, part):
    expected = detections(300)
    found = [each.clone() for each in expected]
    found[part][:4] = value
    agreement = compare(expected, found)
    assert agreement.lost == 8 and not agreement.agrees
    logits = torch.randn(1, 300, 4)
    other = logits.clone()
    other[0, :4, 2] = value
    agreement = Agreement()
    boxes, zeros = expected[0][None], torch.zeros(1, 300, 4)
    agreement.add_proposals([boxes, logits, zeros], [boxes, other, zeros])
    assert agreement.lost == 8 and not agreement.agrees


def test_every_detection_has_a_partner_of_its_own():
    boxes, scores, labels = detections(10)
    twice = [torch.cat([each, each]) for each in (boxes, scores, labels)]
    assert compare((boxes, scores, labels), twice).lost == 10
    assert compare(twice, twice).lost == 0


def test_a_batch_that_is_wrong_does_not_drown_among_others():
    expected = detections(500)
    few = [each[:3] for each in expected]
    moved = few[0] + 10, few[1], few[2]
    agreement = Agreement()
    for wanted, found in ((expected, expected), (few, moved)):
        boxes, scores, labels = (each[None] for each in found)
        agreement.add_detections(
            [InstanceData(bboxes=wanted[0], scores=wanted[1], labels=wanted[2])],
            boxes, scores, labels,
        )  # fmt: skip
    assert agreement.lost == 6 <= LOST * agreement.rows
    assert not agreement.agrees


def test_few_of_many_may_be_lost_and_none_of_few():
    for number in (49, 51):
        boxes, scores, labels = detections(number)
        agreement = compare((boxes, scores, labels), (boxes[1:], scores[1:], labels[1:]))
        assert agreement.lost == 1
        assert agreement.agrees is (LOST * (2 * number - 1) >= 1)
    empty = torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long)
    assert compare(empty, empty).agrees
    assert compare(detections(3), empty).lost == 3
    assert compare(empty, detections(3)).lost == 3


def test_proposals_are_compared_with_what_is_computed_of_them():
    boxes, logits, deltas = detections(30)[0], torch.randn(30, 4), torch.randn(30, 12)
    boxes[20:] = 0  # which are none
    for change, lost in ((0.0, 0), (0.2, 2)):
        agreement = Agreement()
        other = deltas.clone()
        other[4, 7] += change
        order = torch.cat([torch.randperm(20), torch.arange(20, 30)])
        agreement.add_proposals(
            [boxes[None], logits[None], deltas[None]],
            [boxes[None, order], logits[None, order], other[None, order]],
        )
        assert (agreement.rows, agreement.lost) == (40, lost)
