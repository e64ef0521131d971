"""CWD."""

import pytest
import torch
from helpers import oracles
from helpers.maps import maps
from mmengine.registry import MODELS

from kd_plugins.losses import CWDLoss, cwd_loss


@pytest.mark.parametrize('tau', [0.5, 1.0, 4.0])
def test_value_is_the_naive_loop(tau):
    student, teacher = maps()
    rows = zip(student.flatten(2).flatten(0, 1), teacher.flatten(2).flatten(0, 1), strict=True)
    expected = oracles.batch_of([oracles.kd(s.tolist(), t.tolist(), tau) for s, t in rows])
    assert CWDLoss(tau, loss_weight=3.0)(student, teacher).item() == pytest.approx(
        3 * expected, rel=1e-12
    )


# Printed by CriterionCWD('channel', 'kl', tau) of SemSeg-distill/utils/criterion.py,
# irfanICMLL/TorchDistiller at 78bac7cbe50634e0b880ef37eb8cd7e2560806e4, on maps(): the loss, and
# the first of its gradients at the second picture's map.
PUBLISHED = {
    1.0: (
        1.1593944407551662,
        [0.0014780695488599443, -0.013581944543158779, -0.021210480603018424,
         -0.008522670889521638, 0.01920833178409777],
    ),
    4.0: (
        1.4774530568892477,
        [0.003926479506556351, -0.02077669291688675, -0.024991732493159603,
         -0.004988616519610638, 0.01613079760773083],
    ),
}  # fmt: skip


@pytest.mark.parametrize('tau', PUBLISHED)
def test_agrees_with_the_published_code(tau):
    student, teacher = maps()
    loss = CWDLoss(tau, loss_weight=1.0)(student, teacher)
    loss.backward()
    value, gradient = PUBLISHED[tau]
    assert loss.item() == pytest.approx(value, rel=1e-12)
    assert student.grad[1].flatten()[:5].tolist() == pytest.approx(gradient, rel=1e-9)


def test_mmrazors_loss_is_the_same_of_contiguous_maps():
    student, teacher = maps()
    theirs = MODELS.build(dict(type='mmrazor.ChannelWiseDivergence', tau=4.0, loss_weight=3.0))
    expected = theirs(student, teacher).item()
    assert CWDLoss(4.0, 3.0)(student, teacher).item() == pytest.approx(expected, rel=1e-12)
    last = student.contiguous(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError, match='view'):
        theirs(last, teacher)


def test_large_maps_are_exact_where_the_published_code_is_infinite():
    student, teacher = maps(dtype=torch.float32)
    student = (200 * student.detach()).requires_grad_()
    loss = cwd_loss(student, 200 * teacher, 1.0)
    loss.backward()
    exact = cwd_loss(student.double(), 200 * teacher.double(), 1.0).item()
    assert loss.item() == pytest.approx(exact, rel=1e-5) and exact > 100
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize('tau', [0, -1, None, dict(type='kd_plugins.GlobalTemperature')])
def test_bad_temperature_is_refused_by_name(tau):
    with pytest.raises(ValueError, match=r'CWDLoss\.tau='):
        CWDLoss(tau)


def test_normed_is_mmrazors_loss_behind_norms_without_gain():
    """mmyolo's recipe: such a norm of batch statistics on both sides."""
    student, teacher = maps()
    theirs = MODELS.build(dict(type='mmrazor.ChannelWiseDivergence', tau=1.0, loss_weight=1.0))
    norm = torch.nn.BatchNorm2d(3, affine=False, track_running_stats=False).eval()
    expected = theirs(norm(student), norm(teacher))
    (of_theirs,) = torch.autograd.grad(expected, student)
    value = CWDLoss(1.0, 1.0, normed=True)(student, teacher)
    (of_ours,) = torch.autograd.grad(value, student)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(of_ours, of_theirs, rtol=1e-9, atol=1e-12)
    # The scale of neither counts.
    assert CWDLoss(1.0, 1.0, normed=True)(100 * student + 7, 0.5 * teacher).item() == pytest.approx(
        value.item(), rel=1e-4
    )
    assert CWDLoss(1.0, 1.0)(student, teacher).item() != pytest.approx(value.item(), rel=1e-2)


@pytest.mark.parametrize('shape', [(1, 3, 1, 1), (2, 3, 4, 5), (0, 3, 4, 5)])
def test_normed_maps_of_one_value_or_one_position_are_finite(shape):
    # A norm of torch raises an error of the first of them.
    student = torch.ones(shape, requires_grad=True)
    finer = torch.ones(shape[0], 3, 2, 2)
    value = CWDLoss(normed=True)([student, finer], [torch.full(shape, 3.0), finer])
    value.backward()
    assert value.item() == 0 and torch.isfinite(student.grad).all()


@pytest.mark.parametrize('value', [1, None, 'yes'])
def test_bad_normed_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r'CWDLoss\.normed='):
        CWDLoss(normed=value)
