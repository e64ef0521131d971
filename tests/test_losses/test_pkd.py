"""PKD."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers.maps import maps
from mmengine.registry import MODELS

from kd_plugins.losses import PKDLoss, pkd_loss


def naive(student, teacher):
    """1 - mean correlation, times (n - 1) / n, with the published constant in the deviations."""
    parts = []
    for s, t in zip(student.transpose(0, 1), teacher.transpose(0, 1), strict=True):
        both = []
        for values in (s.flatten().tolist(), t.flatten().tolist()):
            n = len(values)
            mean = math.fsum(values) / n
            std = math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (n - 1))
            both.append([(x - mean) / (std + 1e-6) for x in values])
        parts.append(math.fsum((a - b) ** 2 for a, b in zip(*both, strict=True)) / n / 2)
    return math.fsum(parts) / len(parts)


def test_value_is_the_naive_loop():
    student, teacher = maps()
    value = PKDLoss(loss_weight=3.0)(student, teacher)
    assert value.item() == pytest.approx(3 * naive(student, teacher), rel=1e-12)


def test_agrees_with_the_published_code():
    student, teacher = maps()
    loss = PKDLoss(loss_weight=1.0)(student, teacher)
    loss.backward()
    # Printed by the mean of pkd_loss of mmdet/models/losses/pkd_loss.py, jbwang1997/CrossKD at
    # 87e156a46259e3a516b65fc6a049b200b9ab0d54, on maps(), and the first of its gradients at the
    # second picture's map.
    assert loss.item() == pytest.approx(0.9523891648276828, rel=1e-12)
    assert student.grad[1].flatten()[:5].tolist() == pytest.approx(
        [-8.823236674935695e-05, -0.006069167487431459, -0.008448898213405078,
         -0.006139848167845155, -0.001010295003355168], rel=1e-9,
    )  # fmt: skip


def test_mmrazors_loss_is_the_same_of_maps_of_one_height():
    student, teacher = maps()
    theirs = MODELS.build(dict(type='mmrazor.PKDLoss', loss_weight=6.0))
    expected = theirs(student, teacher).item()
    assert PKDLoss(6.0)(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_scales_and_shifts_of_a_channel_change_nothing_and_it_is_a_correlation():
    student, teacher = maps()
    plain = pkd_loss(student, teacher).item()
    scale, shift = torch.rand(2, 1, 3, 1, 1, dtype=torch.float64) + 0.5
    assert pkd_loss(scale * student + shift, teacher).item() == pytest.approx(plain, rel=1e-5)
    assert pkd_loss(scale * teacher + shift, teacher).item() == pytest.approx(0, abs=1e-9)
    assert pkd_loss(-teacher, teacher).item() == pytest.approx(2 * 39 / 40, rel=1e-5)


@pytest.mark.parametrize('dead', [1, 3])
def test_constant_channels_have_a_bounded_gradient(dead):
    student, teacher = maps()
    student = student.detach().clone()
    student[:, :dead] = 0.7
    student.requires_grad_()
    loss = pkd_loss(student, teacher)
    loss.backward()
    # A dead channel is worth half: its own part is 0.
    assert 0 < loss.item() < 2
    # One over the least deviation, over all values: the published code has 1e6 there.
    typical = student.detach().transpose(0, 1).flatten(1).std(dim=1).mean()
    least = 1e-3 * typical if dead < 3 else 1.0
    assert 0 < student.grad[:, 0].abs().max() <= 2 / (least * teacher.numel())


def test_a_level_of_one_position_and_picture_is_left_out():
    student, teacher = maps(size=(1, 1), number=1)
    loss = PKDLoss()(student, teacher)
    loss.backward()
    assert loss.item() == 0 and not student.grad.any()
    # It does not hide what other levels say.
    one, two = maps(), maps(size=(1, 1), number=2)
    both = PKDLoss()([one[0], two[0][:2]], [one[1], two[1][:2]])
    assert both.item() > PKDLoss()(*one).item() - 1e-9


@pytest.mark.parametrize('size', [(8, 10), (2, 3), (4, 7)])
def test_the_student_is_resized_to_the_teacher_in_either_direction(size):
    student, teacher = maps()
    other = maps(size=size)[1]
    resized = F.interpolate(student, size, mode='bilinear', align_corners=False)
    expected = naive(resized, other)
    assert PKDLoss(1.0)(student, other).item() == pytest.approx(expected, rel=1e-12)
