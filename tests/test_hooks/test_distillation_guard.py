"""Terms that are no longer numbers, and teachers that teach nothing."""

import logging
from types import SimpleNamespace

import pytest
import torch
from helpers import algorithm_cfg, distiller, save_teacher
from helpers.tiny_training import config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import Runner
from torch import nn

from kd_plugins.hooks.distillation_guard import (
    DistillationGuardHook,
    TermWatch,
    teacher_complaint,
)


@MODELS.register_module(force=True)
class Spoiled(nn.Module):
    """A loss with a parameter that is broken in some calls, counted from 1."""

    def __init__(self, at=(), by=torch.inf):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.at, self.by, self.calls = at, by, 0

    def forward(self, preds_S, preds_T, gt_labels=None):
        self.calls += 1
        factor = self.by if self.calls in self.at else 1.0
        return (preds_S * self.scale - preds_T).square().mean() * factor


@HOOKS.register_module(force=True)
class KeepWeights(Hook):
    """Keeps the weights after every iteration, before any other hook sees them."""

    priority = 'VERY_HIGH'

    def before_train(self, runner):
        self.kept = []

    def after_train_iter(self, runner, *args, **kwargs):
        model = getattr(runner.model, 'module', runner.model)
        self.kept.append({k: v.clone() for k, v in model.state_dict().items()})


def training(tmp_path, at, by=torch.inf, epochs=2, **guard):
    loss = dict(type='Spoiled', at=at, by=by)
    cfg = config(tmp_path, epochs, model=algorithm_cfg(distiller=distiller(loss)))
    cfg.default_hooks.guard = dict(type='kd_plugins.DistillationGuardHook', **guard)
    cfg.custom_hooks.append(dict(type='KeepWeights'))
    cfg.log_level = 'WARNING'
    return Runner.from_cfg(cfg)


def kept(runner):
    return next(hook for hook in runner.hooks if isinstance(hook, KeepWeights)).kept


@pytest.fixture
def warnings_of(monkeypatch):
    said = []
    monkeypatch.setattr(logging.Logger, 'warning', lambda self, text, *a, **k: said.append(text))
    return said


@pytest.mark.parametrize('by', [torch.inf, torch.nan])
@pytest.mark.parametrize('at', [2, 3, 5])
def test_stop_names_term_iteration_and_ranges_and_keeps_the_checkpoint(tmp_path, at, by):
    runner = training(tmp_path, [at], by)
    with pytest.raises(FloatingPointError) as error:
        runner.train()
    said = str(error.value)
    assert f'distill.loss_kd became {by} at iteration {at} (preds_S in [' in said
    assert 'preds_T in [' in said and "DistillationGuardHook.action='skip'" in said
    # Three iterations an epoch: no checkpoint is written after the accident.
    written = {path.name for path in tmp_path.glob('epoch_*.pth')}
    assert written == (set() if at <= 3 else {'epoch_1.pth'})


def test_the_ranges_are_those_of_the_first_bad_step(tmp_path):
    runner = training(tmp_path, [2, 3])
    seen = []
    loss = runner.model.distiller.distill_losses['loss_kd']
    loss.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    with pytest.raises(FloatingPointError) as error:
        runner.train()
    for name in ('preds_S', 'preds_T'):
        low, high = (f'{float(edge(seen[1][name])):.4g}' for edge in (torch.min, torch.max))
        assert f'{name} in [{low}, {high}]' in str(error.value)
    assert 'not finite in 2 iterations since the last look' in str(error.value)


def test_interval_and_iteration_checkpoints_decide_when_it_is_read(tmp_path):
    runner = training(tmp_path / 'a', [2], interval=2)
    with pytest.raises(FloatingPointError):
        runner.train()
    assert runner.iter == 1  # the second, counted from 0
    loss = dict(type='Spoiled', at=[2])
    cfg = config(tmp_path / 'b', model=algorithm_cfg(distiller=distiller(loss)))
    cfg.train_cfg = dict(by_epoch=False, max_iters=8, val_interval=8)
    cfg.param_scheduler = None
    cfg.default_hooks.guard = dict(type='kd_plugins.DistillationGuardHook')
    cfg.default_hooks.checkpoint = dict(
        type='kd_plugins.SafeCheckpointHook', by_epoch=False, interval=3
    )
    with pytest.raises(FloatingPointError):
        Runner.from_cfg(cfg).train()
    assert not list((tmp_path / 'b').glob('*.pth'))


def test_warn_goes_on_and_says_so(tmp_path, warnings_of):
    runner = training(tmp_path, [2, 5], action='warn', check_teacher=False)
    runner.train()
    said = [text for text in warnings_of if 'became' in text]
    assert len(said) == 2 and 'at iteration 2 ' in said[0] and "'warn'" in said[0]
    assert not all(torch.isfinite(w).all() for w in kept(runner)[-1].values())


@pytest.mark.parametrize('by', [torch.inf, torch.nan])
def test_skip_is_the_step_of_the_student_alone(tmp_path, by, warnings_of):
    runner = training(tmp_path / 'skip', [2], by, epochs=1, action='skip', check_teacher=False)
    runner.train()
    steps = kept(runner)
    assert any("left out there (DistillationGuardHook.action='skip')" in t for t in warnings_of)
    # The same run with the term multiplied by 0 in that step.
    reference = training(tmp_path / 'zero', [2], 0.0, epochs=1, check_teacher=False)
    reference.train()
    for step, (ours, theirs) in enumerate(zip(steps, kept(reference), strict=True)):
        for name in ours:
            assert torch.isfinite(ours[name]).all()
            assert torch.equal(ours[name], theirs[name]), (step, name)
    assert not torch.equal(steps[0]['fc.weight'], steps[1]['fc.weight'])


def test_a_skipped_term_is_zero_in_the_total():
    loss = Spoiled(at=[1])
    TermWatch('distill.loss_kd', loss, SimpleNamespace(iter=0), skip=True)
    first, second = (loss(torch.ones(2, 3), torch.zeros(2, 3)) for _ in range(2))
    assert (float(first), float(second)) == (0.0, 1.0)


def test_skip_also_stops_gradients_that_are_not_finite_behind_a_finite_zero(tmp_path):
    # sqrt has an infinite derivative at 0, and the term itself overflows.
    @MODELS.register_module(force=True)
    class Root(nn.Module):
        def forward(self, preds_S, preds_T, gt_labels=None):
            return (preds_S - preds_S.detach()).abs().sqrt().sum() / 0.0

    cfg = config(tmp_path, 1, model=algorithm_cfg(distiller=distiller(dict(type='Root'))))
    cfg.default_hooks.guard = dict(type='kd_plugins.DistillationGuardHook', action='skip')
    model = Runner.from_cfg(cfg).train()
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_watching_changes_nothing(tmp_path):
    ends = []
    for name, guard in (('a', {}), ('b', dict(action='skip')), ('c', None)):
        cfg = config(tmp_path / name, 2)
        if guard is not None:
            cfg.default_hooks.guard = dict(
                type='kd_plugins.DistillationGuardHook', interval=1, **guard
            )
        ends.append(Runner.from_cfg(cfg).train().state_dict())
    for other in ends[:2]:
        assert all(torch.equal(other[name], value) for name, value in ends[2].items())


@pytest.mark.parametrize('skip', [False, True])
def test_a_step_reads_nothing_back(monkeypatch, skip):
    loss = Spoiled()
    watch = TermWatch('distill.loss_kd', loss, SimpleNamespace(iter=0), skip)
    for name in ('item', 'tolist', 'cpu', 'numpy', '__bool__', '__float__', '__int__'):
        monkeypatch.setattr(
            torch.Tensor, name, lambda *a, **k: pytest.fail('a step waits for the device')
        )
    preds_S = torch.ones(2, 3, requires_grad=True)
    loss(preds_S=preds_S, preds_T=torch.zeros(2, 3)).backward()
    assert preds_S.grad is not None
    with pytest.raises(pytest.fail.Exception):
        watch.describe()


def test_what_one_rank_sees_stops_every_rank(tmp_path, monkeypatch):
    asked = []

    def other_rank_has_seen_it(counts, op):
        asked.append(op)
        counts.fill_(2)

    monkeypatch.setattr('kd_plugins.hooks.distillation_guard.all_reduce', other_rank_has_seen_it)
    with pytest.raises(FloatingPointError, match=r'distill\.loss_kd was not finite on another pro'):
        training(tmp_path, [], epochs=1, check_teacher=False).train()
    assert asked == ['max']


def test_a_model_without_distillation_is_left_alone(tmp_path):
    cfg = config(tmp_path, 1, model=dict(type='TinyClassifier'))
    cfg.default_hooks.guard = dict(type='kd_plugins.DistillationGuardHook', interval=1)
    Runner.from_cfg(cfg).train()


@pytest.mark.parametrize(
    ('settings', 'says'),
    [
        (dict(action='halt'), r"DistillationGuardHook\.action='halt' is not one of stop, skip"),
        (dict(interval=0), r'DistillationGuardHook\.interval=0 is not a number of iterations'),
        (dict(interval=True), 'interval=True'),
    ],
)
def test_wrong_settings_say_so(settings, says):
    with pytest.raises(ValueError, match=says):
        DistillationGuardHook(**settings)


def logits(right, size=32, classes=10, seed=0):
    """A teacher that is right on so many of the pictures."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (size,), generator=generator)
    answers = torch.where(torch.arange(size) < right, labels, (labels + 1) % classes)
    return torch.randn(size, classes, generator=generator) + 20 * torch.eye(classes)[
        answers
    ], labels


@pytest.mark.parametrize(
    ('right', 'size', 'classes', 'complains'),
    [
        (3, 32, 10, True),
        (6, 32, 10, True),  # 3.2 expected, 1.7 deviation
        (7, 32, 10, False),
        (30, 32, 10, False),
        (0, 32, 1000, True),
        (1, 32, 1000, False),
        (16, 32, 2, True),
        (31, 32, 2, False),
        (0, 2, 2, False),  # too few to tell
    ],
)
def test_chance_is_two_deviations_wide(right, size, classes, complains):
    preds, labels = logits(right, size, classes)
    said = teacher_complaint(preds, labels)
    assert (said is not None) is complains
    if complains:
        assert f'right on {right} of the {size} pictures' in said and 'teacher_ckpt' in said
    assert teacher_complaint(preds, None) is None


def test_constant_logits_are_named():
    row = torch.randn(1, 10, generator=torch.Generator().manual_seed(0))
    assert 'the same logits' in teacher_complaint(row.repeat(8, 1), None)
    assert 'the same logits' in teacher_complaint(torch.zeros(8, 10), None)
    row = row.repeat(8, 1)
    row[3, 2] += 0.01
    assert teacher_complaint(row, None) is None


def test_the_first_batch_is_looked_at_and_no_other(tmp_path, warnings_of):
    teacher = save_teacher(tmp_path / 'teacher.pth')
    weights = teacher.state_dict()
    torch.save(
        dict(state_dict={k: torch.zeros_like(v) for k, v in weights.items()}),
        tmp_path / 'constant.pth',
    )
    model = algorithm_cfg(allow_random_teacher=False, teacher_ckpt=str(tmp_path / 'constant.pth'))
    cfg = config(tmp_path / 'work', 2, model=model)
    cfg.default_hooks.guard = dict(type='kd_plugins.DistillationGuardHook')
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert sum('the same logits' in text for text in warnings_of) == 1
    assert not runner.model.teacher.network._forward_hooks or all(
        'look' not in str(hook) for hook in runner.model.teacher.network._forward_hooks.values()
    )


def test_labels_are_found_in_samples_of_upstream():
    from mmpretrain.structures import DataSample

    from kd_plugins.hooks.distillation_guard import _labels

    samples = [DataSample().set_gt_label(label) for label in (3, 1)]
    assert _labels(samples).tolist() == [3, 1]
    assert _labels([DataSample()]) is None and _labels(None) is None and _labels([]) is None
    several = [DataSample().set_gt_label([1, 2])]
    assert _labels(several) is None
