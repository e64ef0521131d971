"""Suppression of a batch, beside mmcv's of one picture."""

import pytest
import torch
from mmcv.ops import batched_nms
from mmengine.config import ConfigDict

from kd_plugins.shipping.suppression import clip, large_enough, suppress


def candidates(number=60, pictures=3):
    generator = torch.Generator().manual_seed(0)
    corners = 60 * torch.rand(pictures, number, 2, generator=generator)
    sides = 10 + 30 * torch.rand(pictures, number, 2, generator=generator)
    boxes = torch.cat([corners, corners + sides], -1)
    scores = torch.rand(pictures, number, generator=generator)
    groups = torch.randint(0, 3, (pictures, number), generator=generator)
    valid = torch.rand(pictures, number, generator=generator) > 0.3
    valid[1] = False
    return boxes, scores, groups, valid


@pytest.mark.parametrize('agnostic', [False, True])
@pytest.mark.parametrize('most', [None, 7])
def test_it_keeps_what_mmcv_keeps(agnostic, most):
    boxes, scores, groups, valid = candidates()
    settings = ConfigDict(type='nms', iou_threshold=0.3, class_agnostic=agnostic)
    found = suppress(boxes, scores, groups, valid, settings, most)
    numbers = []
    for i in range(3):
        kept = valid[i]
        if kept.any():
            wanted, index = batched_nms(
                boxes[i, kept], scores[i, kept], groups[i, kept], dict(settings)
            )
            wanted, labels = wanted[:most], groups[i, kept][index][:most]
        else:
            wanted, labels = torch.zeros(0, 5), torch.zeros(0, dtype=torch.long)
        number = len(wanted)
        numbers.append(number)
        assert torch.equal(found[0][i, :number], wanted[:, :4])
        assert torch.equal(found[1][i, :number], wanted[:, 4])
        assert torch.equal(found[2][i, :number], labels)
        assert not found[0][i, number:].any() and not found[1][i, number:].any()
        assert (found[2][i, number:] == -1).all()
    assert found[0].shape[1] == max(numbers) and numbers[1] == 0
    assert max(numbers) == 7 if most else max(numbers) > 7


def test_nothing_valid_leaves_nothing():
    boxes, scores, groups, valid = candidates()
    settings = ConfigDict(iou_threshold=0.5)
    found = suppress(boxes, scores, groups, torch.zeros_like(valid), settings, 5)
    assert [tuple(each.shape) for each in found] == [(3, 0, 4), (3, 0), (3, 0)]


def test_boxes_are_cut_off_and_measured():
    boxes = torch.tensor([[[-5.0, 3.0, 50.0, 40.0]], [[1.0, -2.0, 5.0, 90.0]]])
    cut = clip(boxes, torch.tensor([[30, 45], [60, 20]]))
    assert cut.tolist() == [[[0.0, 3.0, 45.0, 30.0]], [[1.0, 0.0, 5.0, 60.0]]]
    assert large_enough(cut, ConfigDict(min_bbox_size=4)).tolist() == [[True], [False]]
    assert large_enough(cut - cut, ConfigDict()).all()
    assert not large_enough(cut - cut, ConfigDict(min_bbox_size=0)).any()
