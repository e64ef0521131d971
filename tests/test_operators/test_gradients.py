"""Every operator with a gradient equals its definition as a loop, and so do its gradients."""

import pytest
import torch
from helpers.operators import cases, ours, run


@pytest.mark.parametrize('case', cases(), ids=str)
def test_values_and_gradients_are_those_of_the_loop(case):
    with ours():
        got = run(case.call, case)
    expected = run(case.oracle, case)
    assert len(got) == len(expected)
    for ours_, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours_, theirs, rtol=1e-9, atol=1e-9)
