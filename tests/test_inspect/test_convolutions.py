"""What check tells of convolutions whose gradients a CPU computes wrong in bfloat16."""

import contextlib

import pytest
import torch
from helpers import ROOT
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from kd_plugins.compat import bfloat16_gradient_is_wrong
from kd_plugins.inspect.check import check, convolutions
from kd_plugins.inspect.check.report import Report

SMALL = [  # kernel, stride, padding, size of the map, where a map is smaller than the stride
    (3, 2, 1, (1, 1)),
    (3, 3, 1, (2, 2)),
    (7, 2, 3, (1, 4)),
    (1, 2, 0, (1, 1)),
]


def conv(kernel=3, stride=2, padding=1, **options):
    return nn.Conv2d(16, 32, kernel, stride, padding, **options)


@pytest.mark.parametrize(('kernel', 'stride', 'padding', 'size'), SMALL)
@pytest.mark.parametrize('groups', [1, 4])
def test_torchs_own_convolutions_are_right_on_every_processor(
    kernel, stride, padding, size, groups
):
    with torch.backends.mkldnn.flags(enabled=False):
        assert not bfloat16_gradient_is_wrong(conv(kernel, stride, padding, groups=groups), size)


@pytest.fixture
def careless(monkeypatch):
    """A convolution that leaves one weight's gradient as the memory was, in bfloat16."""
    right = torch.nn.functional.conv2d
    asked = []

    def wrong(maps, weight, *arguments):
        def leave(gradient):
            gradient = gradient.clone()
            gradient[0, 0, 0, 0] = float('nan')
            return gradient

        asked.append(tuple(maps.shape[-2:]))
        out = right(maps, weight, *arguments)
        if weight.dtype is torch.bfloat16:
            weight.register_hook(leave)
        return out

    monkeypatch.setattr(torch.nn.functional, 'conv2d', wrong)
    with torch.backends.mkldnn.flags(enabled=False):
        yield asked


def test_a_wrong_gradient_is_seen(careless):
    assert bfloat16_gradient_is_wrong(conv(), (1, 1))
    assert set(careless) == {(1, 1)}


def test_maps_that_are_not_smaller_than_the_stride_cost_nothing(careless):
    assert not bfloat16_gradient_is_wrong(conv(), (2, 2))
    assert not bfloat16_gradient_is_wrong(conv(stride=1), (1, 1))
    assert careless == []


@pytest.fixture
def everything_wrong(monkeypatch):
    monkeypatch.setattr(convolutions, 'bfloat16_gradient_is_wrong', lambda conv, size: True)


def test_convolutions_that_train_in_bfloat16_are_named(everything_wrong):
    student = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    student[0].requires_grad_(False)
    report = Report('a config')
    with convolutions.watch_convolutions(report, student):
        student(torch.ones(1, 3, 6, 6))
    assert report.findings == []
    # Some processors' oneDNN has no bfloat16.
    with (
        torch.backends.mkldnn.flags(enabled=False),
        convolutions.watch_convolutions(report, student),
        torch.autocast('cpu', torch.bfloat16),
    ):
        student[:2](torch.ones(1, 3, 6, 6))
    (finding,) = report.findings
    assert finding.level == 'warning'
    assert (
        "gives 1 of the student's convolutions" in finding.what
        and '1, on a map of 4 x 4' in finding.what
    )
    assert not any(module._forward_hooks for module in student)


@OPTIM_WRAPPERS.register_module(force=True)
class InBFloat16(OptimWrapper):
    @contextlib.contextmanager
    def optim_context(self, model):
        with super().optim_context(model), torch.autocast('cpu', dtype=torch.bfloat16):
            yield


@pytest.mark.parametrize('wrapper', ['InBFloat16', 'OptimWrapper'])
def test_check_looks_at_the_students_convolutions(everything_wrong, wrapper):
    cfg = Config.fromfile(ROOT / 'configs/dkd/dkd_digits.py')
    cfg.model.update(teacher_ckpt=None, allow_random_teacher=True)
    cfg.optim_wrapper.type = wrapper
    with torch.backends.mkldnn.flags(enabled=False):
        report = check(cfg, iterations=1, teacher_batches=0)
    said = [finding.what for finding in report.findings if 'bfloat16' in finding.what]
    assert len(said) == (wrapper == 'InBFloat16'), report.findings
    assert all('backbone.' in what for what in said)
