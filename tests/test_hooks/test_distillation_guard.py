"""Terms that are no longer numbers."""

import logging
from types import SimpleNamespace

import pytest
import torch
from helpers import algorithm_cfg, detection, distiller, two_stage
from helpers.tiny_training import config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS, init_default_scope
from mmengine.runner import Runner
from torch import nn

from kd_plugins.hooks.distillation_guard import DistillationGuardHook
from kd_plugins.hooks.of_runner import terms_of
from kd_plugins.hooks.term_watch import TermWatch


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
    assert 'wrong in 2 iterations since the last look' in str(error.value)


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


def spoil(model, *names):
    """Let parameters of the teacher overflow, so that terms beside it are no numbers."""
    with torch.no_grad():
        for name, p in model.teacher.network.named_parameters():
            if name.endswith(names):
                p.fill_(torch.inf)


@pytest.mark.parametrize('kind', ['rois', 'dense', 'list'])
def test_skip_reaches_what_terms_take_in_records_and_lists(kind):
    if kind == 'list':

        class Listed(nn.Module):
            def forward(self, preds_S, preds_T):
                return sum(
                    (s.exp() - t).square().sum()
                    for s, t in zip(preds_S, preds_T['maps'], strict=True)
                )

        loss, preds = Listed(), torch.full((2, 3), 200.0, requires_grad=True)
        watch = TermWatch('distill.loss_kd', loss, SimpleNamespace(iter=0), skip=True)
        loss(preds_S=[preds], preds_T=dict(maps=[torch.zeros(2, 3)])).backward()
        assert torch.equal(preds.grad, torch.zeros(2, 3))
        assert "(preds_S[0] in [200, 200], preds_T['maps'][0] in [0, 0])" in watch.describe()
        return
    if kind == 'rois':
        model, batch = two_stage.build(), two_stage.pictures()
        spoil(model, 'bbox_head.fc_cls.bias')
        ranges = 'preds_S[0].cls_logits in ['
    else:
        init_default_scope('mmdet')
        torch.manual_seed(0)
        model, batch = MODELS.build(detection.distillation()).train(), detection.images()
        spoil(model, 'gfl_cls.bias', 'gfl_reg.bias')
        ranges = 'preds_S.bin_logits in ['
    watches = [
        TermWatch(f'distill.{name}', loss, SimpleNamespace(iter=0), skip=True)
        for name, loss in terms_of(model).items()
    ]
    losses = model.loss(**model.data_preprocessor(batch, True))
    total, _ = model.parse_losses(losses)
    assert any(ranges in watch.describe() for watch in watches if int(watch.count))
    assert all(float(losses[watch.name]) == 0 for watch in watches if int(watch.count))
    total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_a_term_on_rois_is_never_below_its_losss_bound():
    model = two_stage.build()
    (term,) = terms_of(model).values()
    assert term.lower_bound == 0.0
    watch = TermWatch('distill.loss_dkd', term, SimpleNamespace(iter=0), skip=False)
    term.loss.register_forward_hook(lambda module, args, loss: loss - 1e3)
    model.loss(**model.data_preprocessor(two_stage.pictures(), True))
    assert int(watch.count) == 1 and 'the least value it can have' in watch.describe()


def test_empty_inputs_leave_a_record_as_it_is():
    loss = Spoiled(at=[1])
    watch = TermWatch('distill.loss_kd', loss, SimpleNamespace(iter=6), skip=False)
    loss(preds_S=torch.ones(2, 3), preds_T=torch.zeros(2, 3))
    loss(preds_S=torch.ones(0, 3), preds_T=torch.zeros(0, 3))
    assert 'became inf at iteration 7 (preds_S in [1, 1], preds_T in [0, 0])' in watch.describe()


@pytest.mark.parametrize('skip', [False, True])
def test_records_stay_on_the_device_of_their_term(monkeypatch, skip):
    """Torch joins no tensors of several devices, as a GPU and the host are."""
    guard = DistillationGuardHook(action='skip' if skip else 'warn')
    losses = [nn.MSELoss(), nn.MSELoss(), nn.MSELoss()]
    guard.watches = [
        TermWatch(f'distill.loss_{i}', loss, SimpleNamespace(iter=0), skip)
        for i, loss in enumerate(losses)
    ]
    elsewhere = torch.empty(2, 3, device='meta')
    for loss in losses[1:]:
        loss(elsewhere, elsewhere + 1)
    guard.watches[1].reset()
    assert [watch.count.device.type for watch in guard.watches] == ['cpu', 'meta', 'meta']
    assert [watch.record.device.type for watch in guard.watches] == ['cpu', 'meta', 'meta']
    joined = []

    def stack(tensors):
        joined.append({tensor.device.type for tensor in tensors})
        return torch.zeros(len(tensors), dtype=torch.int64)

    monkeypatch.setattr(torch, 'stack', stack)
    for order in (1, -1):
        guard.watches = guard.watches[::order]
        guard._read(SimpleNamespace())
    assert [len(devices) for devices in joined] == [1, 1]


@pytest.mark.parametrize('action', ['warn', 'skip'])
def test_a_second_term_does_not_disturb_the_report_of_the_first(tmp_path, action, warnings_of):
    kd = dict(type='kd_plugins.KDLoss')
    terms = dict(loss_bad=dict(type='Spoiled', at=[2, 3, 5]), loss_kd=kd)
    mapping = distiller()['loss_forward_mappings']['loss_kd']
    cfg = config(tmp_path, 2, model=algorithm_cfg(distiller=distiller(
        distill_losses=terms, loss_forward_mappings=dict.fromkeys(terms, mapping))))  # fmt: skip
    cfg.default_hooks.guard = dict(
        type='kd_plugins.DistillationGuardHook', action=action, interval=1, check_teacher=False
    )
    Runner.from_cfg(cfg).train()
    said = [text for text in warnings_of if 'became' in text]
    found = [(t.split()[0].removeprefix('distill.loss_'), int(t.split()[5])) for t in said]
    if action == 'skip':
        assert found == [('bad', 2), ('bad', 3), ('bad', 5)]
    else:  # the first spoils the weights, and every later term with them
        assert found == [('bad', 2)] + [(name, i) for i in (3, 4, 5, 6) for name in ('bad', 'kd')]


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
    with pytest.raises(FloatingPointError, match=r'distill\.loss_kd went wrong on another pro'):
        training(tmp_path, [], epochs=1, check_teacher=False).train()
    assert asked == ['max']


def test_a_model_without_distillation_is_left_alone(tmp_path):
    cfg = config(tmp_path, 1, model=dict(type='TinyClassifier'))
    cfg.default_hooks.guard = dict(type='kd_plugins.DistillationGuardHook', interval=1)
    Runner.from_cfg(cfg).train()


@pytest.mark.parametrize(
    ('settings', 'says'),
    [
        (
            dict(action='halt'),
            r"DistillationGuardHook\.action='halt' is wrong: give 'stop' or 'skip' or",
        ),
        (
            dict(interval=0),
            r'DistillationGuardHook\.interval=0 is wrong: give a number of iterations',
        ),
        (dict(interval=True), 'interval=True'),
    ],
)
def test_wrong_settings_say_so(settings, says):
    with pytest.raises(ValueError, match=says):
        DistillationGuardHook(**settings)


def test_a_guard_ends_with_its_training(tmp_path):
    first = training(tmp_path / 'a', [], action='skip', epochs=1)
    first.train()
    second = training(tmp_path / 'b', [], action='stop', epochs=1)
    second.model = first.model
    loss = first.model.distiller.distill_losses['loss_kd']
    loss.at = [loss.calls + 2]
    with pytest.raises(FloatingPointError, match='became inf at iteration 2'):
        second.train()


@MODELS.register_module(force=True)
class Bounded(Spoiled):
    """The same loss, which says that it is at least 0."""

    lower_bound = 0.0
    loss_weight = 2.0


def spoiled(tmp_path, by, at=(5,), kind='Bounded', **guard):
    cfg = config(
        tmp_path, 3, model=algorithm_cfg(distiller=distiller(dict(type=kind, at=at, by=by)))
    )
    cfg.default_hooks.guard = dict(type='kd_plugins.DistillationGuardHook', **guard)
    cfg.custom_hooks.append(dict(type='KeepWeights'))
    cfg.log_level = 'WARNING'
    return Runner.from_cfg(cfg)


def test_a_term_below_its_lower_bound_is_wrong(tmp_path):
    with pytest.raises(FloatingPointError, match=r'at iteration 5, below -0\.002, the least value'):
        spoiled(tmp_path / 'a', by=-1.0).train()
    # Rounding below it is not, nor is anything of a term without a bound.
    spoiled(tmp_path / 'b', by=-1e-6).train()
    spoiled(tmp_path / 'c', by=-1.0, kind='Spoiled').train()


def test_a_term_below_its_bound_is_skipped_like_one_that_is_not_finite(tmp_path, warnings_of):
    ours = spoiled(tmp_path / 'a', by=-1.0, action='skip', check_teacher=False)
    reference = spoiled(tmp_path / 'b', by=0.0, check_teacher=False)
    for runner in (ours, reference):
        runner.train()
    assert any('the least value' in text and 'left out' in text for text in warnings_of)
    for step, (a, b) in enumerate(zip(kept(ours), kept(reference), strict=True)):
        assert all(torch.equal(a[name], b[name]) for name in a), step


@pytest.mark.parametrize('action', ['stop', 'warn', 'skip'])
def test_a_term_that_outgrows_the_task_is_told(tmp_path, warnings_of, action):
    runner = spoiled(tmp_path, by=1e6, action=action, check_teacher=False)
    if action == 'stop':
        with pytest.raises(FloatingPointError, match='more than 100 times its largest value'):
            runner.train()
        return
    runner.train()
    # The student that it broke is told of after it.
    said = next(text for text in warnings_of if 'became' in text)
    assert 'at iteration 5, more than 100 times' in said and 'training goes on' in said


def growth(terms, tasks, window=2):
    """In which steps a term is told to outgrow the task, windows of two steps apart."""
    watch = TermWatch('distill.loss_kd', nn.Identity(), SimpleNamespace(iter=0), skip=False)
    watch.latest, told = torch.zeros(2), []
    watch.record = torch.zeros(2)
    for step, (term, task) in enumerate(zip(terms, tasks, strict=True)):
        before = int(watch.count)
        watch.beside(torch.tensor(term), torch.tensor(task))
        told += [step] * (int(watch.count) > before)
        if step % window == window - 1:
            watch.next_window()
    return told


def test_growth_is_measured_against_the_tasks():
    flat = [1.0] * 6
    assert growth([1, 2, 1, 2, 350.0, 3], flat) == [4]
    # A warm-up doubles from one window to the next.
    assert growth([0, 0, 1, 2, 4, 8], flat) == []
    # The task's loss grows as well; the term stays small beside the task's; it began at 0.
    assert growth([1, 2, 1, 2, 350.0, 3], [1, 1, 1, 1, 20, 1.0]) == []
    assert growth([1e-6, 2e-6, 1e-6, 2e-6, 5e-3, 1e-6], flat) == []
    assert growth([0, 0, 500.0, 1, 1, 1], flat) == []
    # A step that is no number is no measure of later ones.
    assert growth([1, 2, torch.nan, torch.inf, 1, 2, 350.0, 3], [1.0] * 8) == [6]
    # In the first window nothing is known yet.
    assert growth([1, 500.0, 1, 1, 1, 1], flat) == []
