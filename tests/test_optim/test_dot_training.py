"""DOT on the upstream Runner, on a part of the digits."""

import json

import pytest
import torch
from mmengine.runner import Runner
from test_training import Stopped, assert_same_bits, load, train

from kd_plugins.optim import two_gradients

DOT = 'configs/dot/dot_kd_digits.py'
CTKD = 'configs/dot/dot_ctkd_kd_digits.py'


@pytest.mark.parametrize(
    'settings',
    [
        {},
        {
            'optim_wrapper.accumulative_counts': 5,
            'optim_wrapper.clip_grad': dict(max_norm=1.0),
            'optim_wrapper.paramwise_cfg': dict(norm_decay_mult=0.0),
            'param_scheduler': [
                dict(type='CosineAnnealingLR', T_max=2, by_epoch=True),
                dict(type='LinearMomentum', start_factor=0.95, end=2, by_epoch=True),
            ],
        },
    ],
)
def test_a_resumed_run_ends_in_the_same_weights(tmp_path, settings):
    whole = train(load(DOT, tmp_path / 'whole', 2, **settings))
    broken = load(DOT, tmp_path / 'broken', 2, **settings)
    broken.custom_hooks.append(dict(type='StopAfterEpoch', epoch=1))
    with pytest.raises(Stopped):
        train(broken)
    path = tmp_path / 'broken' / 'epoch_1.pth'
    saved = torch.load(path, weights_only=False)
    assert 'distill_momentum_buffer' in saved['optimizer']['state'][0]
    resumed = train(load(DOT, tmp_path / 'broken', 2, resume=True, **settings))
    assert_same_bits(whole, resumed)
    # Without the distillation's buffers it would not.
    for state in saved['optimizer']['state'].values():
        del state['distill_momentum_buffer']
    torch.save(saved, path)
    (tmp_path / 'broken' / 'last_checkpoint').write_text(str(path))
    other = train(load(DOT, tmp_path / 'broken', 2, resume=True, **settings))
    assert not torch.equal(whole['head.fc.weight'], other['head.fc.weight'])


@pytest.mark.parametrize('first, then', [('dot', 'kd'), ('kd', 'dot')])
@pytest.mark.parametrize('hook', ['kd_plugins.SafeCheckpointHook', 'CheckpointHook'])
def test_going_on_without_dot_or_only_then_with_it_is_refused(tmp_path, first, then, hook):
    paths = dict(dot=DOT, kd='configs/kd/kd_digits.py')
    options = {'default_hooks.checkpoint.type': hook}
    train(load(paths[first], tmp_path, 1, **options))
    says = {'dot': 'without it one of its two', 'kd': 'has no momentum of the distillation'}[first]
    if (first, hook) == ('dot', 'CheckpointHook'):
        # The sentence is that of our hook; without it torch stops the run.
        says = 'different number of parameter groups'
    again = load(paths[then], tmp_path, 2, resume=True, **options)
    with pytest.raises(ValueError, match=says):
        train(again)
    # From its weights it may go on.
    again.resume, again.load_from = False, str(tmp_path / 'epoch_1.pth')
    train(again)


def rows(work_dir):
    (file,) = work_dir.glob('*/vis_data/scalars.json')
    return [row for row in map(json.loads, file.read_text().splitlines()) if 'iter' in row]


def test_both_losses_are_logged_and_the_cosine_on_request(tmp_path, monkeypatch):
    calls = []
    cosine = two_gradients.cosine
    monkeypatch.setattr(
        two_gradients, 'cosine', lambda optimizer: (calls.append(1), cosine(optimizer))[1]
    )
    cfg = load(CTKD, tmp_path / 'plain')
    cfg.default_hooks.curriculum_temperature.length = 2
    cfg.default_hooks.logger.interval = 2
    train(cfg)
    logged = rows(tmp_path / 'plain')
    assert logged and all({'task_loss', 'distill_loss'} < set(row) for row in logged)
    assert not calls and not any('grad_cosine' in row for row in logged)

    cfg = load(CTKD, tmp_path / 'asked')
    cfg.default_hooks.curriculum_temperature.length = 2
    cfg.default_hooks.logger.interval = 2
    cfg.default_hooks.gradient_cosine = dict(type='kd_plugins.GradientCosineHook')
    train(cfg)
    asked = rows(tmp_path / 'asked')
    assert all(-1 <= row['grad_cosine'] <= 1 for row in asked)
    assert len({row['grad_cosine'] for row in asked}) == len(asked)
    # 5 iterations an epoch: the second, the fourth, and the last, which may be logged.
    assert len(calls) == 6 and len(asked) >= 4
    # Asking changes nothing.
    assert [row['loss'] for row in asked] == [row['loss'] for row in logged]


def test_the_cosine_needs_dot(tmp_path):
    cfg = load('configs/kd/kd_digits.py', tmp_path)
    cfg.default_hooks.gradient_cosine = dict(type='kd_plugins.GradientCosineHook')
    with pytest.raises(TypeError, match=r"optim_wrapper\.type='OptimWrapper' has only their sum"):
        train(cfg)


def test_a_scheduler_sets_the_learning_rate(tmp_path):
    cfg = load(DOT, tmp_path, 3)
    cfg.param_scheduler = dict(type='MultiStepLR', milestones=[1, 2], gamma=0.1, by_epoch=True)
    train(cfg)
    assert [row['lr'] for row in rows(tmp_path)] == pytest.approx([0.05, 0.005, 0.0005])


def test_patterns_are_checked_before_the_first_step(tmp_path):
    cfg = load(DOT, tmp_path, **{'optim_wrapper.distill_keys': ['distill.*', 'loss_ld']})
    runner = Runner.from_cfg(cfg)
    with pytest.raises(ValueError, match="the pattern 'loss_ld' matches none of the losses"):
        runner.train()
    assert runner.iter == 0 and not runner.optim_wrapper.optimizer.state
