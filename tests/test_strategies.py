"""Every method in every way of training: the cells of docs/strategies.md."""

import contextlib
import re

import pytest
import torch
from helpers import ROOT, algorithm_cfg, distiller
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import convert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, OPTIM_WRAPPERS, init_default_scope
from mmengine.runner import Runner
from tiny_training import config, train

from kd_plugins import launch

KD = dict(type='kd_plugins.KDLoss', tau=2.0)
GLOBAL = dict(type='kd_plugins.GlobalTemperature')
INSTANCE = dict(type='kd_plugins.InstanceTemperature', num_classes=4)
CURRICULUM = dict(type='kd_plugins.CurriculumTemperatureHook', length=2)
SGD = dict(type='SGD', lr=0.1, momentum=0.9)
DOT = dict(type='kd_plugins.DOTOptimWrapper', delta=0.05, optimizer=SGD)
#: A method more is a line more: its loss, its optimizer wrapper, its hook.
METHODS = {
    'KD': (KD, None, None),
    'DKD': (dict(type='kd_plugins.DKDLoss', tau=2.0, beta=2.0), None, None),
    'CTKD': (dict(KD, tau=GLOBAL), None, CURRICULUM),
    'CTKD by instance': (dict(KD, tau=INSTANCE), None, CURRICULUM),
    'KD + DOT': (KD, DOT, None),
    'CTKD + DOT': (dict(KD, tau=GLOBAL), DOT, CURRICULUM),
}
each_method = pytest.mark.parametrize('method', METHODS)


@OPTIM_WRAPPERS.register_module(force=True)
class BFloat16OnCPU(OptimWrapper):
    """What AmpOptimWrapper does with dtype='bfloat16', which asserts an accelerator."""

    @contextlib.contextmanager
    def optim_context(self, model):
        with super().optim_context(model), torch.autocast('cpu', dtype=torch.bfloat16):
            yield


def of(method, work_dir, epochs=2, wrapper=None, **options):
    """Return the config of a tiny training with a method."""
    loss, own_wrapper, hook = METHODS[method]
    cfg = config(work_dir, epochs, model=algorithm_cfg(distiller=distiller(dict(loss))))
    cfg.optim_wrapper = dict(own_wrapper or dict(type='OptimWrapper', optimizer=SGD))
    cfg.optim_wrapper.update(wrapper or {})
    cfg.default_hooks.checkpoint = None
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.default_hooks.guard = dict(type='kd_plugins.DistillationGuardHook', interval=1)
    if hook:
        cfg.default_hooks.curriculum = dict(hook)
    cfg.merge_from_dict(options)
    return cfg


def difference(a, b):
    assert a.keys() == b.keys()
    return max(float((a[key].double() - b[key].double()).abs().max()) for key in a)


@each_method
def test_bfloat16_autocast(tmp_path, method):
    half = dict(dtype='bfloat16') if 'DOT' in method else dict(type='BFloat16OnCPU')
    full, mixed = train(of(method, tmp_path / 'a')), train(of(method, tmp_path / 'b', wrapper=half))
    assert all(value.dtype == torch.float32 for value in mixed.values())
    assert 0 < difference(full, mixed) < 0.02


@each_method
def test_accumulation_is_the_whole_batch(tmp_path, method):
    whole = train(of(method, tmp_path / 'a', **{'train_dataloader.batch_size': 12}))
    parts = train(of(method, tmp_path / 'b', wrapper=dict(accumulative_counts=3)))
    single = train(of(method, tmp_path / 'c'))
    assert difference(whole, parts) < 1e-5 < 1e-3 < difference(whole, single)


@each_method
def test_activation_checkpointing_changes_nothing(tmp_path, method):
    calls = []
    model = of(method, tmp_path / 'b', activation_checkpointing=['fc'])
    runner = Runner.from_cfg(model)
    fc = runner.model.architecture.fc
    forward = fc.forward
    fc.forward = lambda x: (calls.append(1), forward(x))[1]
    kept = runner.train().state_dict()
    plain = train(of(method, tmp_path / 'a'))
    assert difference(plain, kept) == 0
    # Once more in each backward pass; DOT has two.
    assert len(calls) == 6 * (3 if 'DOT' in method else 2)


@each_method
def test_an_average_beside_it_changes_nothing(tmp_path, method):
    cfg = of(method, tmp_path / 'b')
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.5))
    runner = Runner.from_cfg(cfg)
    averaged = runner.train().state_dict()
    assert difference(train(of(method, tmp_path / 'a')), averaged) == 0
    hook = next(hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook')
    assert difference(hook.ema_model.module.state_dict(), averaged) > 1e-3
    assert hook.ema_model.module.teacher is runner.model.teacher


# mmengine compiles the optimizer's step too, and torch 2.1 cannot compile any momentum.
NO_MOMENTUM = torch.__version__ < '2.2'


@pytest.mark.long
@pytest.mark.parametrize('method', [m for m in METHODS if not (NO_MOMENTUM and 'DOT' in m)])
def test_compiled_steps_are_the_same_steps(tmp_path, method):
    torch._dynamo.reset()
    optimizer = {'optim_wrapper.optimizer.momentum': 0.0} if NO_MOMENTUM else {}
    torch._dynamo.utils.counters.clear()
    compiled = train(of(method, tmp_path / 'b', compile=dict(backend='aot_eager'), **optimizer))
    assert torch._dynamo.utils.counters['frames']['ok'] > 5
    plain = train(of(method, tmp_path / 'a', **optimizer))
    assert difference(plain, compiled) < 1e-5


def digits():
    return sorted((ROOT / 'configs').glob('*/*_digits.py'))


def build(path):
    init_default_scope('mmpretrain')
    cfg = Config.fromfile(path)
    cfg.model.update(teacher_ckpt=None, allow_random_teacher=True)
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    return MODELS.build(cfg.model)


@pytest.mark.parametrize('path', digits(), ids=lambda path: path.stem)
def test_sync_batchnorm_is_the_students(path):
    model = convert_sync_batchnorm(build(path), 'torch')
    kinds = [type(m).__name__ for m in model.modules() if 'BatchNorm' in type(m).__name__]
    normalisations = [m for m in model.modules() if 'LayerNorm' in type(m).__name__]
    assert set(kinds) == {'SyncBatchNorm'} or (not kinds and normalisations)
    assert not any('Sync' in type(m).__name__ for m in model.teacher.modules())


@pytest.mark.parametrize('path', digits(), ids=lambda path: path.stem)
def test_channels_last_gives_the_same_losses(path):
    from mmpretrain.structures import DataSample

    hub = MessageHub.get_current_instance()
    for key, value in dict(iter=20, max_iters=300, epoch=2, max_epochs=30).items():
        hub.update_info(key, value)
    model = build(path).train().double()
    size = 8 if 'digits' in path.stem else 32
    inputs = torch.randn(4, 1, size, size, dtype=torch.float64)
    samples = [DataSample().set_gt_label(i) for i in range(4)]
    before = model.loss(inputs, samples)
    model.to(memory_format=torch.channels_last)
    convolutions = [m for m in model.teacher.modules() if isinstance(m, torch.nn.Conv2d)]
    # A filter of one channel or of 1 x 1 pixels is in both formats at once.
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in convolutions)
    after = model.loss(inputs.contiguous(memory_format=torch.channels_last), samples)
    assert before.keys() == after.keys()
    for name in before:
        if 'loss' in name:
            torch.testing.assert_close(before[name], after[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('strategy', ['FSDPStrategy', 'DeepSpeedStrategy', 'ColossalAIStrategy'])
def test_sharded_students_are_refused_before_anything_starts(tmp_path, strategy):
    cfg = of('KD', tmp_path)
    cfg.update(launcher='none', runner_type='FlexibleRunner', strategy=dict(type=strategy))
    with pytest.raises(SystemExit, match=rf"strategy\.type='{strategy}' is not supported"):
        launch.build_runner(cfg)


def test_every_cell_of_the_table_is_a_test_or_says_why_not():
    text = (ROOT / 'docs/strategies.md').read_text()
    rows = [line[1:-1].split('|') for line in text.splitlines() if line.startswith('|')]
    names = set(re.findall(r'def (test_\w+)', (ROOT / 'tests/test_strategies.py').read_text()))
    for path in (ROOT / 'tests').glob('*/test_*.py'):
        names |= set(re.findall(r'def (test_\w+)', path.read_text()))
    named = re.findall(r'`(test_\w+)`', text)
    assert named and [name for name in named if name not in names] == []
    assert len({len(row) for row in rows}) == 1
    assert all(cell.strip() for row in rows[1:] for cell in row)
