"""kd_plugins' operators beside mmcv's compiled ones, on every device that mmcv's run on.

    make test-ops

Not part of `make test`: it needs an mmcv with compiled operators, and fails without.
"""

import itertools
import subprocess
import sys

import mmcv.ops
import pytest
import torch
from helpers.boxes_to_suppress import SETS as TAME_SETS
from helpers.boxes_to_suppress import overflowing, scattered, ties
from helpers.layouts import LAYOUTS
from helpers.operators import ROIS, cases, compiled, ours, randn, run

DEVICES = ('cpu', 'cuda') if torch.cuda.is_available() else ('cpu',)
ON_DEVICES = [
    (case, device) for case in cases() for device in DEVICES if case.on_cpu or device == 'cuda'
]
SETS = dict(TAME_SETS, overflowing=overflowing())
#: How far both may be apart, relative to the largest number of a tensor.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-3}


def both(function):
    """Return what a function returns with kd_plugins' operators, and with mmcv's."""
    with ours():
        first = function()
    with compiled():
        return first, function()


def assert_close(got, expected, dtype):
    assert len(got) == len(expected)
    for first, second in zip(got, expected, strict=True):
        size = float(second.abs().max()) if second.numel() else 0.0
        bound = TOLERANCE[dtype] * max(size, 1e-3)
        torch.testing.assert_close(first, second, rtol=0, atol=bound, equal_nan=True)


@pytest.mark.parametrize('dtype', (torch.float64, torch.float32), ids=str)
@pytest.mark.parametrize(('case', 'device'), ON_DEVICES, ids=str)
def test_values_and_gradients_are_mmcvs(case, device, dtype):
    got, expected = both(lambda: run(case.call, case, dtype, device))
    if 'max' in case.options and dtype == torch.float32:
        got[0], expected[0] = got[0].clamp(min=-100), expected[0].clamp(min=-100)
    assert_close(got, expected, dtype)


@pytest.mark.parametrize('aligned', (True, False))
@pytest.mark.parametrize('mode', ('avg', 'max'))
@pytest.mark.parametrize('device', DEVICES)
def test_roi_align_in_half_precision_is_nearer_to_the_truth_than_mmcvs(device, mode, aligned):
    maps, rois = randn(2, 3, 8, 10).half().to(device), ROIS[[0, 1, 3]].half().to(device)
    first, second = both(lambda: mmcv.ops.roi_align(maps, rois, (2, 3), 0.25, 2, mode, aligned))
    with ours():
        exact = mmcv.ops.roi_align(maps.double(), rois.double(), (2, 3), 0.25, 2, mode, aligned)
    assert first.dtype == torch.float16
    assert (first - exact).abs().max() <= (second - exact).abs().max() + 1e-3
    assert (first - exact).abs().max() < 2e-3


@pytest.mark.parametrize('name', SETS)
@pytest.mark.parametrize('offset', (0, 1))
@pytest.mark.parametrize('threshold', (0.0, 0.25, 0.5, 0.6, 0.9))
@pytest.mark.parametrize('device', DEVICES)
def test_nms_keeps_the_same_boxes(name, offset, threshold, device):
    boxes, scores = (value.to(device) for value in SETS[name])
    first, second = both(lambda: mmcv.ops.nms(boxes, scores, threshold, offset))
    assert first[1].tolist() == second[1].tolist()
    torch.testing.assert_close(first[0], second[0], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('seed', range(20))
def test_nms_keeps_the_same_boxes_of_a_thousand(seed, device):
    boxes, scores = (value.to(device) for value in scattered(1000, 10 * seed))
    for threshold in (0.3, 0.5, 0.7):
        first, second = both(lambda t=threshold: mmcv.ops.nms(boxes, scores, t))
        assert first[1].tolist() == second[1].tolist()


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('threshold', (0.3, 0.5, 0.7))
def test_of_boxes_with_equal_scores_the_same_are_kept(threshold, device):
    boxes, scores = (value.to(device) for value in ties(3000))
    first, second = both(lambda: mmcv.ops.nms(boxes, scores, threshold))
    assert first[1].tolist() == second[1].tolist()


@pytest.mark.parametrize('split', (10000, 100))
@pytest.mark.parametrize('agnostic', (True, False))
@pytest.mark.parametrize('kind', ('nms', 'soft_nms'))
@pytest.mark.parametrize('device', DEVICES)
def test_classes_are_kept_apart_alike(kind, agnostic, split, device):
    boxes, scores = (value.to(device) for value in scattered(200))
    classes = (torch.arange(200) % 3).to(device)
    settings = dict(type=kind, iou_threshold=0.3, class_agnostic=agnostic, split_thr=split)
    first, second = both(lambda: mmcv.ops.batched_nms(boxes, scores, classes, settings))
    assert first[1].tolist() == second[1].tolist()
    torch.testing.assert_close(first[0], second[0])


@pytest.mark.parametrize('name', [*SETS, 'ties'])
@pytest.mark.parametrize(
    ('method', 'offset', 'min_score'),
    list(itertools.product(('naive', 'linear', 'gaussian'), (0, 1), (0, 1e-3, 0.3))),
)
@pytest.mark.parametrize('threshold', (0.0, 0.5))
def test_soft_nms_keeps_the_same_boxes_in_the_same_order(
    name, method, offset, min_score, threshold
):
    boxes, scores = ties(200) if name == 'ties' else SETS[name]
    settings = (threshold, 0.4, min_score, method, offset)
    first, second = both(lambda: mmcv.ops.soft_nms(boxes, scores, *settings))
    assert first[1].tolist() == second[1].tolist()
    torch.testing.assert_close(first[0], second[0], rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize('name', SETS)
@pytest.mark.parametrize('threshold', (0.0, 0.25, 0.5, 0.9))
def test_nms_match_makes_the_same_groups(name, threshold):
    dets = torch.cat((SETS[name][0], SETS[name][1][:, None]), 1)
    first, second = both(lambda: mmcv.ops.nms_match(dets, threshold))
    assert [g.tolist() for g in first] == [g.tolist() for g in second]


@pytest.mark.parametrize(
    ('mode', 'aligned', 'offset'), list(itertools.product(('iou', 'iof'), (True, False), (0, 1)))
)
@pytest.mark.parametrize('device', DEVICES)
def test_overlaps_are_the_same(mode, aligned, offset, device):
    boxes = torch.cat((scattered(30)[0], torch.tensor([[5.0, 5, 5, 5]]))).to(device)
    others = boxes.flip(0)
    first, second = both(lambda: mmcv.ops.bbox_overlaps(boxes, others, mode, aligned, offset))
    torch.testing.assert_close(first, second, equal_nan=True)


def test_compiled_operators_read_maps_of_every_layout_alike_whichever_is_imported_first():
    code = LAYOUTS.format(first='', second='import kd_plugins')
    reply = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert reply.returncode == 0, reply.stderr
    assert reply.stdout.splitlines()[-1] == 'alike'
