"""Every operator with a gradient equals its definition as a loop, and so do its gradients."""

import dataclasses

import pytest
import torch
from helpers.operators import cases, ours, run


def channels_last(tensor):
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def every_second(tensor):
    apart = tensor.new_full((*tensor.shape, 2), 7)
    apart[..., 0] = tensor
    return apart[..., 0]


def transposed(tensor):
    return tensor.transpose(0, -1).contiguous().transpose(0, -1)


@pytest.mark.parametrize('case', cases(), ids=str)
def test_values_and_gradients_are_those_of_the_loop(case):
    with ours():
        got = run(case.call, case)
    expected = run(case.oracle, case)
    assert len(got) == len(expected)
    for ours_, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours_, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('layout', (channels_last, every_second, transposed))
@pytest.mark.parametrize(
    'case', [case for case in cases() if case.operator != 'masked_conv2d'], ids=str
)
def test_how_tensors_lie_in_memory_changes_nothing(case, layout):
    def inputs():
        return {
            name: layout(value) if value.is_floating_point() else value
            for name, value in case.inputs().items()
        }

    with ours():
        got = run(case.call, dataclasses.replace(case, inputs=inputs))
        expected = run(case.call, case)
    for first, second in zip(got, expected, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)
