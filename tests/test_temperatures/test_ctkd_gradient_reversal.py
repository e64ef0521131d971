"""CTKD's gradient reversal."""

import pytest
import torch

from kd_plugins.temperatures import scale_gradient


@pytest.mark.parametrize('factor', [-1.0, -0.3, 0.0, 2.0])
def test_values_stay_and_gradients_are_multiplied(factor):
    x = torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64, requires_grad=True)
    y = scale_gradient(x, factor)
    assert torch.equal(y, x)
    (y**3).sum().backward()
    assert x.grad.tolist() == pytest.approx([factor * 3 * v * v for v in x.tolist()], abs=1e-15)


def test_only_what_lies_behind_is_reversed():
    x = torch.tensor(2.0, requires_grad=True)
    w = torch.tensor(5.0, requires_grad=True)
    (scale_gradient(x, -1.0) * w).backward()
    assert (x.grad.item(), w.grad.item()) == (-5.0, 2.0)
