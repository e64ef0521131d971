"""Suppression equals its definition as a loop, whatever the boxes."""

import itertools

import mmcv.ops
import numpy as np
import pytest
import torch
from helpers import operator_oracles as oracles
from helpers.boxes_to_suppress import SETS, scattered, ties
from helpers.operators import ours

THRESHOLDS = (0.0, 0.25, 0.5, 0.6, 0.9)
SOFT = list(itertools.product(('naive', 'linear', 'gaussian'), (0, 1)))


@pytest.fixture(autouse=True)
def _ours():
    with ours():
        yield


@pytest.mark.parametrize('name', SETS)
@pytest.mark.parametrize('offset', (0, 1))
@pytest.mark.parametrize('threshold', THRESHOLDS)
def test_nms_keeps_what_no_better_box_covers(name, offset, threshold):
    boxes, scores = SETS[name]
    # In float32, as mmcv's: 0.6 is a little more there, and no less than a float32 IoU of 0.6.
    rounded = float(np.float32(threshold))
    expected = oracles.nms(boxes, scores, rounded, offset)
    dets, kept = mmcv.ops.nms(boxes, scores, threshold, offset)
    assert kept.tolist() == expected and kept.dtype == torch.int64
    torch.testing.assert_close(dets[:, :4], boxes[expected], equal_nan=True)
    assert dets[:, 4].tolist() == scores[expected].tolist()


def test_an_iou_of_a_float32_threshold_is_not_above_it():
    # 60 / 100 in float32 is more than 0.6 in float64.
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 6]])
    assert len(mmcv.ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.6)[1]) == 2


@pytest.mark.parametrize('dtype', (torch.float16, torch.bfloat16, torch.float64))
def test_nms_takes_every_precision(dtype):
    boxes, scores = scattered(30)
    boxes, scores = boxes.round().to(dtype), scores.to(dtype)
    order = scores.double().sort(descending=True, stable=True).indices
    expected = order[torch.tensor(oracles.nms(boxes[order], -torch.arange(30), 0.5, 0))]
    assert mmcv.ops.nms(boxes, scores, 0.5)[1].tolist() == expected.tolist()


def test_score_threshold_and_number_of_boxes_are_kept_to():
    boxes, scores = scattered()
    expected = [i for i in oracles.nms(boxes, scores, 0.5, 0) if scores[i] > 0.4][:5]
    kept = mmcv.ops.nms(boxes, scores, 0.5, score_threshold=0.4, max_num=5)[1]
    assert kept.tolist() == expected


def test_boxes_of_equal_scores_are_taken_in_the_order_of_torchs_sort():
    boxes, scores = ties()
    order = scores.sort(descending=True).indices
    expected = order[torch.tensor(oracles.nms(boxes[order], -torch.arange(40), 0.5, 0))]
    assert mmcv.ops.nms(boxes, scores, 0.5)[1].tolist() == expected.tolist()


@pytest.mark.parametrize('split', (10000, 10))
@pytest.mark.parametrize('agnostic', (True, False))
def test_boxes_of_other_classes_suppress_nothing_unless_asked_to(agnostic, split):
    boxes, scores = scattered()
    classes = torch.arange(60) % 3
    settings = dict(type='nms', iou_threshold=0.3, class_agnostic=agnostic, split_thr=split)
    kept = mmcv.ops.batched_nms(boxes, scores, classes, settings)[1].tolist()
    groups = [classes] if agnostic and split > 60 else [classes == c for c in range(3)]
    expected = []
    for group in groups:
        index = group.nonzero()[:, 0] if group.dtype == torch.bool else torch.arange(60)
        expected += index[oracles.nms(boxes[index], scores[index], 0.3, 0)].tolist()
    assert kept == sorted(expected, key=lambda i: -scores[i])


@pytest.mark.parametrize('name', [name for name in SETS if name != 'extreme'])
@pytest.mark.parametrize(('method', 'offset'), SOFT)
@pytest.mark.parametrize('min_score', (1e-3, 0.3))
def test_soft_nms_lowers_the_scores_of_covered_boxes(name, method, offset, min_score):
    boxes, scores = SETS[name]
    settings = (0.5, 0.4, min_score, method, offset)
    expected = oracles.soft_nms(boxes.double(), scores, *settings)
    dets, kept = mmcv.ops.soft_nms(boxes, scores, *settings)
    assert kept.tolist() == [i for i, _ in expected] and kept.dtype == torch.int64
    torch.testing.assert_close(
        dets[:, 4].tolist(), [score for _, score in expected], rtol=1e-5, atol=1e-7
    )
    torch.testing.assert_close(dets[:, :4], boxes[kept])


def test_soft_nms_takes_and_returns_arrays_and_changes_none():
    boxes, scores = (value.numpy() for value in scattered(20))
    before = boxes.copy(), scores.copy()
    dets, kept = mmcv.ops.soft_nms(boxes, scores)
    assert isinstance(dets, np.ndarray) and isinstance(kept, np.ndarray)
    assert (boxes == before[0]).all() and (scores == before[1]).all()


def test_soft_nms_with_a_threshold_of_0_drops_boxes_that_do_not_touch():
    boxes = torch.tensor([[0.0, 0, 9, 9], [20, 20, 29, 29], [0, 0, 9, 8]])
    dets, kept = mmcv.ops.soft_nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.0, method='naive')
    assert kept.tolist() == [0] and dets[:, 4].tolist() == pytest.approx([0.9])


def test_soft_nms_refuses_boxes_of_whole_numbers_instead_of_rounding_scores():
    boxes = torch.tensor([[0, 0, 9, 9], [20, 20, 29, 29]])
    with pytest.raises(TypeError, match='needs boxes of floating-point numbers, not torch.int64'):
        mmcv.ops.soft_nms(boxes, torch.tensor([0.9, 0.8]))


@pytest.mark.parametrize('name', [name for name in SETS if name != 'extreme'])
@pytest.mark.parametrize('threshold', (0.25, 0.5, 0.9))
def test_nms_match_names_who_suppresses_whom(name, threshold):
    dets = torch.cat((SETS[name][0], SETS[name][1][:, None]), 1)
    groups = [group.tolist() for group in mmcv.ops.nms_match(dets, threshold)]
    assert groups == oracles.nms_match(dets, threshold)
