"""MSE."""

import pytest
from helpers.maps import maps

from kd_plugins.losses import MSELoss, mse_loss


def test_value_is_the_naive_loop():
    student, teacher = maps()
    pairs = zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)
    squares = [(s - t) ** 2 for s, t in pairs]
    expected = sum(squares) / len(squares)
    assert mse_loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)
    assert MSELoss(3.0)(student, teacher).item() == pytest.approx(3 * expected, rel=1e-12)


def test_gradient_is_twice_the_difference_over_all_values():
    student, teacher = maps()
    MSELoss()(student, teacher).backward()
    expected = 2 * (student.detach() - teacher) / student.numel()
    assert student.grad.flatten().tolist() == pytest.approx(expected.flatten().tolist(), rel=1e-12)
