"""CTKD with other packages' losses."""

import copy
import inspect

import pytest
import torch
import torch.nn.functional as F
from helpers import batch, build, distiller
from mmengine.registry import MODELS

from kd_plugins.losses import DKDLoss, KDLoss, WithTemperature
from kd_plugins.structures import Progress
from kd_plugins.temperatures import GlobalTemperature, Temperature

LABELS = torch.tensor([0, 3, 6, 2, 2])
GLOBAL = dict(type='kd_plugins.GlobalTemperature')


def wave_logits():
    """The same numbers on every machine: 5 samples, 7 classes."""
    i = torch.arange(35, dtype=torch.float64).view(5, 7)
    return 3 * torch.sin(1.3 * i + 0.2), 4 * torch.cos(0.7 * i + 0.5)


def inputs_of(name):
    if name == 'ChannelWiseDivergence':
        return tuple(logits.view(1, 5, 7, 1) for logits in wave_logits())
    return (*wave_logits(), LABELS) if name in ('DKDLoss', 'WSLD') else wave_logits()


def wrapped(name, tau=GLOBAL, epoch=9):
    settings = dict(num_classes=7) if name == 'WSLD' else {}
    loss = MODELS.build(
        dict(
            type='kd_plugins.WithTemperature',
            loss=dict(type=f'mmrazor.{name}', **settings),
            tau=dict(tau) if isinstance(tau, dict) else tau,
        )
    ).double()
    for part in loss.modules():
        if hasattr(part, 'set_progress'):
            part.set_progress(Progress(iter=0, max_iters=100, epoch=epoch, max_epochs=10))
    return loss, settings


LOSSES = ['KLDivergence', 'DKDLoss', 'DISTLoss', 'WSLD', 'ChannelWiseDivergence']


@pytest.mark.parametrize('name', LOSSES)
def test_is_the_loss_at_that_temperature_and_its_slope(name):
    inputs = inputs_of(name)
    loss, settings = wrapped(name)
    loss.tau.theta.data.fill_(-1.5)
    student = inputs[0].clone().requires_grad_()
    value = loss(student, *inputs[1:])
    value.backward()

    def plain(theta):
        tau = 1 + 20 * torch.tensor(theta, dtype=torch.float64).sigmoid().item()
        return MODELS.build(dict(type=f'mmrazor.{name}', tau=tau, **settings))

    other = inputs[0].clone().requires_grad_()
    expected = plain(-1.5)(other, *inputs[1:])
    expected.backward()
    slope = (plain(-1.5 + 1e-5)(*inputs) - plain(-1.5 - 1e-5)(*inputs)).item() / 2e-5
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(student.grad, other.grad, rtol=1e-10, atol=1e-14)
    # The strength of the last epoch is -1.
    assert loss.tau.theta.grad.item() == pytest.approx(-slope, rel=1e-6)


def test_agrees_with_our_own_losses():
    for name, ours in (('KLDivergence', KDLoss), ('DKDLoss', DKDLoss)):
        inputs = inputs_of(name)
        theirs, _ = wrapped(name)
        weights = dict(alpha=1.0, beta=1.0) if name == 'DKDLoss' else {}
        tau = GlobalTemperature().double()
        tau.set_progress(theirs.tau.progress)
        mine = ours(tau, **weights)(*inputs)
        assert theirs(*inputs).item() == pytest.approx(mine.item(), rel=1e-12)


def test_temperature_goes_with_the_call():
    loss, _ = wrapped('KLDivergence')
    loss(*wave_logits())
    assert loss.loss.tau == 1.0
    with pytest.raises(RuntimeError):
        loss(wave_logits()[0], torch.zeros(3, 2))
    assert loss.loss.tau == 1.0
    assert copy.deepcopy(loss)(*wave_logits()).item() == loss(*wave_logits()).item()


def test_other_divergences_are_left_alone():
    target = torch.tensor([0.0, 1.0], requires_grad=True)
    wrapped('DKDLoss')[0](*inputs_of('DKDLoss'))
    F.kl_div(torch.tensor([-1.0, -2.0]), target).backward()
    assert target.grad.isnan().any()


def test_half_precision_is_left_before_the_loss():
    half = [logits.bfloat16() for logits in wave_logits()]
    loss, _ = wrapped('KLDivergence', 4.0)
    expected = KDLoss(4.0)(*half).item()
    assert loss(*half).dtype == torch.float32
    assert loss(*half).item() == pytest.approx(expected, rel=1e-6)


def test_works_in_a_distiller_under_short_names():
    mapping = distiller()['loss_forward_mappings']['loss_kd']
    del mapping['gt_labels']
    term = dict(type='kd_plugins.WithTemperature', loss=dict(type='KLDivergence'), tau=GLOBAL)
    model = build(distiller=distiller(term, loss_forward_mappings=dict(loss_kd=mapping)))
    for part in model.distiller.modules():
        if isinstance(part, Temperature):
            part.set_progress = lambda progress: None
            part.progress = Progress(0, 100, 9, 10)
    total, _ = model.parse_losses(model(*batch(), mode='loss'))
    total.backward()
    assert model.distiller.distill_losses['loss_kd'].tau.theta.grad.any()
    with pytest.raises(ValueError, match='lacks preds_T'):
        build(distiller=distiller(term, loss_forward_mappings=dict(
            loss_kd=dict(preds_S=mapping['preds_S']))))  # fmt: skip


def test_shows_the_arguments_of_the_loss():
    assert list(inspect.signature(wrapped('DISTLoss')[0].forward).parameters) == [
        'logits_S', 'logits_T']  # fmt: skip


def test_instance_wise_temperature_is_refused():
    tau = dict(type='kd_plugins.InstanceTemperature', num_classes=7)
    with pytest.raises(ValueError, match='InstanceTemperature gives one.*KLDivergence averages'):
        wrapped('KLDivergence', tau)

    class PerSample(Temperature):
        def forward(self, preds_S, preds_T):
            return torch.ones(len(preds_S), 1)

    with pytest.raises(ValueError, match='PerSample gives one temperature per sample'):
        wrapped('KLDivergence', PerSample())[0](*wave_logits())


def test_loss_without_a_temperature_is_refused():
    for loss in (dict(type='mmrazor.L2Loss'), KDLoss(4.0), torch.nn.MSELoss()):
        with pytest.raises(ValueError, match='has no number tau to replace'):
            WithTemperature(loss, GlobalTemperature())


def test_two_temperatures_are_refused():
    with pytest.raises(ValueError, match=r'WithTemperature\.loss\.tau=4 would have no effect'):
        WithTemperature(dict(type='mmrazor.KLDivergence', tau=4), GlobalTemperature())


def test_bad_number_is_refused_by_name():
    with pytest.raises(ValueError, match=r'WithTemperature\.tau=0'):
        WithTemperature(dict(type='mmrazor.KLDivergence'), 0)
