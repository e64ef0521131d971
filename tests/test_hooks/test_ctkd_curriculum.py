"""CTKD: the hook that sets the curriculum and logs temperatures."""

import math
from types import SimpleNamespace

import pytest
import torch
from helpers.vector_training import GLOBAL, kd, logged, runner_of
from mmengine.registry import MODELS

from kd_plugins.hooks import CurriculumTemperatureHook
from kd_plugins.hooks.curriculum_temperature import named_temperatures
from kd_plugins.hooks.of_runner import trained_model
from kd_plugins.schedules import descent

INSTANCE = dict(type='kd_plugins.InstanceTemperature', num_classes=4, hidden=3)


def temperature(runner, name='loss_kd'):
    return runner.model.distiller.distill_losses[name].tau


class Recorder:
    """What a temperature was called with, step by step."""

    def __init__(self, tau):
        self.thetas, self.strengths, forward = [], [], tau.forward

        def recording(*args):
            self.thetas.append(tau.theta.item())
            self.strengths.append(tau.curriculum(tau.progress))
            return forward(*args)

        tau.forward = recording


def tau_of(theta):
    return 1 + 20 * torch.tensor(theta).sigmoid().item()


def test_drives_the_strength_and_logs_the_temperature(tmp_path):
    runner = runner_of(tmp_path, dict(length=3, min=-0.5))
    record = Recorder(temperature(runner))
    runner.train()
    assert record.strengths == pytest.approx([-0.125] * 5 + [-0.375] * 5 + [-0.5] * 10, rel=1e-12)
    rows = [row for row in logged(tmp_path) if 'tau' in row]
    # Every second iteration of an epoch, as the LoggerHook does.
    assert [row['iter'] for row in rows] == [2, 4, 7, 9, 12, 14, 17, 19]
    for row in rows:
        assert row['tau'] == pytest.approx(tau_of(record.thetas[row['iter'] - 1]), rel=1e-6)
    assert len({row['tau'] for row in rows}) == len(rows)


def test_epochs_shorter_than_the_logging_interval_are_logged(tmp_path):
    runner_of(tmp_path, dict(length=2), max_epochs=2, interval=100).train()
    rows = [row for row in logged(tmp_path) if 'tau' in row]
    assert [row['iter'] for row in rows] == [5, 10]


def test_iteration_loops_and_lines(tmp_path):
    runner = runner_of(
        tmp_path, dict(schedule='linear', length=10, by_epoch=False), by_epoch=False
    )  # fmt: skip
    record = Recorder(temperature(runner))
    runner.train()
    expected = [-min(i + 1, 10) / 10 for i in range(20)]
    assert record.strengths == pytest.approx(expected, rel=1e-12)


def test_several_terms_are_logged_by_name(tmp_path):
    losses = dict(loss_kd=kd(GLOBAL), loss_each=kd(INSTANCE), loss_fixed=kd(4.0))
    runner = runner_of(tmp_path, dict(length=1), max_epochs=2, losses=losses)
    runner.train()
    last = logged(tmp_path)[-1]
    names = sorted(key for key in last if key.startswith('tau'))
    assert names == ['tau.each', 'tau.each_max', 'tau.each_min', 'tau.kd']
    tau = temperature(runner, 'loss_each').last
    assert last['tau.each_min'] < last['tau.each'] < last['tau.each_max']
    assert tau.shape == (8, 1)
    assert list(named_temperatures(runner.model)) == ['tau.kd', 'tau.each']
    # DDP, here its forerunner, puts the model below a module of its own.
    wrapped = SimpleNamespace(model=torch.nn.DataParallel(runner.model))
    assert trained_model(wrapped) is runner.model


def test_published_curriculum_without_the_hook(tmp_path):
    runner = runner_of(tmp_path, None, max_epochs=10)
    record = Recorder(temperature(runner))
    runner.train()
    assert record.strengths[0] == pytest.approx(-0.02447174185242318, rel=1e-12)
    assert record.strengths[-1] == -1.0
    assert record.thetas[-1] != 1.0
    assert not any('tau' in row for row in logged(tmp_path))


def test_resume_ends_as_if_undisturbed(tmp_path):
    whole = runner_of(tmp_path / 'whole', dict(length=3))
    record = Recorder(temperature(whole))
    whole.train()
    path = tmp_path / 'whole' / 'epoch_2.pth'
    state = torch.load(path, weights_only=False)['state_dict']
    learned = [key for key in state if key.startswith('distiller.')]
    assert learned == ['distiller.distill_losses.loss_kd.tau.theta']
    again = runner_of(tmp_path / 'again', dict(length=3), load_from=str(path), resume=True)
    resumed = Recorder(temperature(again))
    again.train()
    assert resumed.strengths == record.strengths[10:] == [-1.0] * 10
    assert resumed.thetas == record.thetas[10:]
    assert resumed.thetas[0] == state[learned[0]].item() != 1.0
    ends = again.model.state_dict()
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, ends[key])


def test_curriculum_is_recomputed_and_not_saved(tmp_path):
    runner_of(tmp_path / 'first', dict(length=2), max_epochs=2).train()
    path = str(tmp_path / 'first' / 'epoch_2.pth')
    again = runner_of(tmp_path / 'again', dict(length=4), load_from=path, resume=True)
    record = Recorder(temperature(again))
    again.train()
    expected = [(math.cos(math.pi * 0.75) + 1) / 2 - 1] * 5 + [-1.0] * 5
    assert record.strengths == pytest.approx(expected, rel=1e-12)


def test_temperature_is_in_the_optimizer_with_its_own_rate(tmp_path):
    runner = runner_of(
        tmp_path,
        dict(length=1),
        max_epochs=2,
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.1, weight_decay=0.01),
            paramwise_cfg=dict(custom_keys={'distiller': dict(lr_mult=0.25, decay_mult=0.0)}),
        ),
    )
    runner.train()
    groups = runner.optim_wrapper.optimizer.param_groups
    mine = [g for g in groups if any(p is temperature(runner).theta for p in g['params'])]
    assert [(g['lr'], g['weight_decay']) for g in mine] == [(0.025, 0.0)]
    assert {g['lr'] for g in groups} == {0.1, 0.025}


def test_longer_than_the_training_is_refused_before_it(tmp_path):
    runner = runner_of(tmp_path, dict(length=10))
    with pytest.raises(ValueError, match=r'Hook\.length=10 is longer.*4 epochs'):
        runner.train()
    assert temperature(runner).progress is None


def test_epochs_in_an_iteration_loop_are_refused(tmp_path):
    runner = runner_of(tmp_path, dict(length=2), by_epoch=False)
    with pytest.raises(ValueError, match=r'Hook\.length=2 counts epochs.*by_epoch=False'):
        runner.train()


def test_model_without_learned_temperatures_is_refused(tmp_path):
    runner = runner_of(tmp_path, dict(length=2), losses=dict(loss_kd=kd(4.0)))
    with pytest.raises(ValueError, match=r'finds no learned temperature.*GlobalTemperature'):
        runner.train()


@pytest.mark.parametrize(
    ('settings', 'says'),
    [
        (dict(schedule='step'), r"Hook\.schedule='step' is wrong: give 'cosine' or 'linear'"),
        (dict(min=0.0), r'Hook\.max=0\.0, min=0\.0 would not train'),
        (dict(max=1.0), r'Hook\.max=1\.0, min=-1\.0 would not train'),
        (dict(min=1.0), r'Hook\.min=1\.0 is above max'),
        (dict(length=0), r'Hook\.length=0'),
    ],
)
def test_bad_settings_are_refused_by_name(settings, says):
    with pytest.raises(ValueError, match=says):
        CurriculumTemperatureHook(**settings)


def test_defaults_are_the_published_curriculum():
    name = 'CurriculumTemperatureHook'
    assert CurriculumTemperatureHook().curriculum == descent('cosine', 0.0, -1.0, 10, name=name)
    linear = CurriculumTemperatureHook('linear', length=4).curriculum
    assert linear == descent('linear', 0.0, -1.0, 4, name=name) and linear.at(0.5) == -0.5
    assert MODELS.get('kd_plugins.GlobalTemperature') is not None


def test_the_curriculum_ends_with_its_training(tmp_path):
    first = runner_of(tmp_path / 'a', dict(length=2, min=-3.0))
    first.train()
    second = runner_of(tmp_path / 'b', None, max_epochs=11)
    second.model = first.model
    second.train()
    tau = temperature(second)
    assert tau.curriculum(tau.progress) == -1.0
