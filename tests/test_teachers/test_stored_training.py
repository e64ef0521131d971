"""Whole trainings on the Runner: what is stored teaches what the live teacher teaches."""

import io
import json
import signal
import sys

import pytest
import torch
from helpers import ROOT
from helpers.detection import term
from helpers.few_scenes import few_scenes
from helpers.processes import run_on_two_ranks, run_script
from helpers.stored import in_views, save_network
from helpers.tiny_training import train
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from rich.console import Console
from test_training import Stopped, load

from kd_plugins.inspect.check import check
from kd_plugins.inspect.check.show import show
from kd_plugins.teachers.filling import fill

DIGITS = {
    'KD': 'kd/kd_digits.py',
    'DKD': 'dkd/dkd_digits.py',
    'CTKD': 'ctkd/ctkd_kd_digits.py',
    'DOT': 'dot/dot_kd_digits.py',
    'DeiT, CSKD': 'cskd/cskd_digits.py',
    'EEKD': 'eekd/eekd_digits.py',
    'ReviewKD': 'reviewkd/reviewkd_digits.py',
    'DIST': 'dist_kd/dist_digits.py',
    'WTTM': 'wttm/wttm_digits.py',
    'LSKD': 'lskd/lskd_kd_digits.py',
}


@pytest.fixture(scope='module')
def teachers(tmp_path_factory):
    """Checkpoints of the teachers of the digits and of the scenes."""
    folder = tmp_path_factory.mktemp('teachers')
    paths = {}
    for name, scope in (('kd/kd_digits.py', 'mmpretrain'), ('bckd/bckd_scenes.py', 'mmdet')):
        init_default_scope(scope)
        cfg = Config.fromfile(ROOT / 'configs' / name).model.teacher
        paths[scope] = save_network(folder / f'{scope}.pth', dict(cfg, _scope_=scope))
        if scope == 'mmpretrain':
            several = [folder / f'epoch_{seed}.pth' for seed in (1, 2)]
            for seed, path in enumerate(several):
                save_network(path, dict(cfg, _scope_=scope), seed)
            paths['several'] = [str(path) for path in several]
    return paths


def digits(path, folder, teachers, epochs=2, views=2, cache=None, **options):
    cfg = load(f'configs/{path}', folder, epochs, **options)
    cfg.train_dataloader.dataset.indices = 24
    cfg.train_dataloader.batch_size = 8
    cfg.val_dataloader.dataset.indices = 10
    which = 'several' if 'eekd' in path else 'mmpretrain'
    cfg.model.update(teacher_ckpt=teachers[which], allow_random_teacher=False)
    return in_views(cfg, views, cache)


def scenes(folder, drawn, teachers, epochs=2, views=2, cache=None):
    cfg = Config.fromfile(ROOT / 'configs/bckd/bckd_scenes.py')
    cfg.merge_from_dict(few_scenes(drawn))
    cfg.train_dataloader.dataset.pipeline.insert(3, dict(type='RandomFlip', prob=0.5))
    ld = term('loss_ld', type='kd_plugins.LDLoss', loss_weight=0.1)
    for key, value in ld.items():
        cfg.model.distiller[key].update(value)
    cfg.model.teacher_ckpt = teachers['mmdet']
    cfg.train_cfg.update(max_epochs=epochs, val_interval=100)
    cfg.param_scheduler = None
    cfg.default_hooks.checkpoint = None
    cfg.log_level = 'WARNING'
    cfg.work_dir = str(folder)
    return in_views(cfg, views, cache)


def same(first, second):
    assert list(first) == list(second)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def close(first, second, limit):
    """Compare what training has changed, relative to how large it is."""
    for name, value in first.items():
        if value.is_floating_point():
            assert (value - second[name]).norm() <= limit * (1e-3 + value.norm()), name


@pytest.mark.parametrize(('dtype', 'limit'), [('float32', 0), ('float16', 0.02)])
def test_stored_maps_teach_directions_and_angles(tmp_path, teachers, dtype, limit):
    """Cosine behind a projector, and Gram between other numbers of channels."""

    def maps(folder, which=teachers, cache=None):
        cfg = digits('cosine/cosine_digits.py', tmp_path / folder, which, cache=cache)
        distiller = cfg.model.distiller
        distiller.distill_losses.loss_gram = dict(type='kd_plugins.GramLoss', resize='coarser')
        (cosine,) = distiller.loss_forward_mappings.values()
        distiller.loss_forward_mappings.loss_gram = dict(
            preds_S=dict(recorder='maps', from_student=True), preds_T=cosine.preds_T
        )
        return train(cfg)

    live = maps('live')
    cache = dict(dir=str(tmp_path / 'store'), dtype=dtype)
    filled = maps('fill', cache=cache)
    # No network, no checkpoint.
    read = maps('read', dict(mmpretrain='none.pth'), cache)
    same(filled, read)
    same(live, read) if not limit else close(live, read, limit)
    alone = train(digits('kd/kd_digits.py', tmp_path / 'kd', teachers))
    assert any(not torch.equal(alone[name], live[name]) for name in alone)


@pytest.mark.parametrize('name', DIGITS)
def test_a_stored_teacher_trains_the_weights_of_the_live_one(tmp_path, teachers, name):
    path = DIGITS[name]
    live = train(digits(path, tmp_path / 'live', teachers))
    whole = dict(dir=str(tmp_path / 'whole'), dtype='float32')
    same(live, train(digits(path, tmp_path / 'fill', teachers, cache=whole)))
    # No network, no checkpoint.
    files = [str(tmp_path / f'epoch_{i}.pth') for i in (1, 2)]
    gone = dict(mmpretrain=files[0], several=files)
    cfg = digits(path, tmp_path / 'read', gone, cache=whole)
    same(live, train(cfg))
    if name in ('DIST', 'WTTM', 'LSKD'):
        # From random teachers they train so unsteadily that any last bit counts; what float16
        # does to one step of them is in test_stored_precision.py.
        return
    # In half precision, filled meanwhile and read afterwards alike.
    half = dict(dir=str(tmp_path / 'half'))
    first = train(digits(path, tmp_path / 'fill16', teachers, cache=half))
    same(first, train(digits(path, tmp_path / 'read16', gone, cache=half)))
    close(live, first, 2e-3)
    if name != 'DeiT, CSKD':  # which takes the teacher's first class only
        assert any(not torch.equal(live[key], first[key]) for key in live)


def test_views_that_come_again_in_other_batches_train_the_same_to_rounding(tmp_path, teachers):
    cache = dict(dir=str(tmp_path / 'store'), dtype='float32')
    live = train(digits(DIGITS['KD'], tmp_path / 'live', teachers, epochs=4))
    close(live, train(digits(DIGITS['KD'], tmp_path / 'fill', teachers, 4, cache=cache)), 1e-4)
    close(live, train(digits(DIGITS['KD'], tmp_path / 'read', teachers, 4, cache=cache)), 1e-4)


def test_a_stored_detector_trains_the_weights_of_the_live_one(tmp_path, teachers):
    """BCKD and LD on the scenes, flipped or not."""
    live = train(scenes(tmp_path / 'live', tmp_path, teachers))
    whole = dict(dir=str(tmp_path / 'whole'), dtype='float32')
    same(live, train(scenes(tmp_path / 'fill', tmp_path, teachers, cache=whole)))
    gone = dict(mmdet=str(tmp_path / 'gone.pth'))
    cfg = scenes(tmp_path / 'read', tmp_path, gone, cache=whole)
    same(live, train(cfg))
    half = dict(dir=str(tmp_path / 'half'))
    close(live, train(scenes(tmp_path / 'fill16', tmp_path, teachers, cache=half)), 2e-2)
    # Of another teacher it would be other weights.
    other = scenes(tmp_path / 'other', tmp_path, gone)
    other.model.update(teacher_ckpt=None, allow_random_teacher=True)
    weights = train(other)
    assert any(not torch.equal(weights[name], live[name]) for name in live)


@pytest.mark.parametrize('complete', [True, False])
def test_a_resumed_training_ends_in_the_same_weights(tmp_path, teachers, complete):
    cache = dict(dir=str(tmp_path / 'store'), dtype='float32')
    path = DIGITS['CTKD']
    whole = train(digits(path, tmp_path / 'whole', teachers, epochs=3, views=3, cache=cache))
    if not complete:
        cache = dict(cache, dir=str(tmp_path / 'another'))
    broken = digits(path, tmp_path / 'broken', teachers, epochs=3, views=3, cache=cache)
    broken.custom_hooks.append(dict(type='StopAfterEpoch', epoch=2))
    with pytest.raises(Stopped):
        train(broken)
    resumed = digits(path, tmp_path / 'broken', teachers, epochs=3, views=3, cache=cache)
    resumed.resume = True
    same(whole, train(resumed))


def test_the_teacher_leaves_the_device_when_the_store_is_complete(tmp_path, teachers):
    cfg = digits(
        DIGITS['KD'], tmp_path, teachers, epochs=3, views=1, cache=dict(dir=str(tmp_path / 's'))
    )
    runner = Runner.from_cfg(cfg)
    looked, teacher = [], runner.model.teacher
    look = teacher.live.look
    teacher.live.look = lambda *args: looked.append(1) or look(*args)
    runner.train()
    # Three batches, and a picture alone.
    assert len(looked) == 4
    assert teacher.store._lock is None and not teacher.store._writer.waiting


def test_the_tool_fills_a_store_on_two_processes_that_trainings_read(tmp_path, teachers):
    cache = dict(dir=str(tmp_path / 'store'), dtype='float32')
    cfg = digits(DIGITS['KD'], tmp_path / 'run', teachers, cache=cache)
    cfg.dump(tmp_path / 'config.py')
    tool = [ROOT / 'tools/cache_teacher.py', tmp_path / 'config.py']
    said = run_on_two_ranks(*tool, '--launcher', 'pytorch')
    assert 'will hold 2.11 kB of the teacher (0.044 kB a picture and view)' in said
    assert 'is complete: ' in said
    assert len([*(tmp_path / 'store').glob('*.records')]) == 2
    gone = dict(mmpretrain=str(tmp_path / 'gone.pth'))
    weights = train(digits(DIGITS['KD'], tmp_path / 'read', gone, cache=cache))
    live = train(digits(DIGITS['KD'], tmp_path / 'live', teachers))
    close(live, weights, 1e-5)
    # Once more, there is nothing to do; and it works without a checkpoint.
    again = fill(Runner.from_cfg(digits(DIGITS['KD'], tmp_path / 'again', gone, cache=cache)))
    assert again == (0, 48, 0, 24)


def test_an_interrupted_filling_goes_on(tmp_path, teachers):
    cache = dict(dir=str(tmp_path / 'store'))
    told = []

    def stop(teacher, done, of):
        told.append((done, of))
        if done == 24:
            raise Stopped

    cfg = digits(DIGITS['KD'], tmp_path / 'run', teachers, cache=cache)
    runner = Runner.from_cfg(cfg)
    with pytest.raises(Stopped):
        fill(runner, stop)
    runner.model.teacher.release()
    cfg = digits(DIGITS['KD'], tmp_path / 'run2', teachers, cache=cache)
    assert fill(Runner.from_cfg(cfg))[:2] == (24, 24)
    assert told == [(8, 48), (16, 48), (24, 48)]


def test_the_tool_says_what_is_wrong_in_one_line(tmp_path, teachers, monkeypatch):
    sys.path.insert(0, str(ROOT / 'tools'))
    import cache_teacher

    cfg = digits(DIGITS['KD'], tmp_path / 'run', teachers)
    cfg.dump(tmp_path / 'config.py')
    monkeypatch.setattr(sys, 'argv', ['cache_teacher.py', str(tmp_path / 'config.py')])
    with pytest.raises(SystemExit, match='model.teacher_cache is not set, so there is no store'):
        cache_teacher.main()


KILLED = """
import sys, os, signal
from pathlib import Path
from mmengine.config import Config
from mmengine.runner import Runner
import kd_plugins
from kd_plugins.files import records
records.BLOCK_BYTES = 100
runner = Runner.from_cfg(Config.fromfile(sys.argv[1]))
teacher = runner.model.teacher
look, looked = teacher.live.look, []
def count(*args):
    looked.append(1)
    if len(looked) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return look(*args)
teacher.live.look = count
runner.train()
"""


def test_a_training_that_is_killed_while_it_writes_goes_on(tmp_path, teachers):
    cache = dict(dir=str(tmp_path / 'store'), dtype='float32')
    cfg = digits(DIGITS['KD'], tmp_path / 'run', teachers, cache=cache)
    cfg.dump(tmp_path / 'config.py')
    script = tmp_path / 'killed.py'
    script.write_text(KILLED)
    done = run_script(script, tmp_path / 'config.py', 6)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    cfg = digits(DIGITS['KD'], tmp_path / 'run2', teachers, cache=cache)
    runner = Runner.from_cfg(cfg)
    teacher = runner.model.teacher
    looked, look = [], teacher.live.look
    teacher.live.look = lambda *args: looked.append(1) or look(*args)
    weights = runner.train().state_dict()
    # Of four batches at most the last block was lost; a picture was shown alone.
    assert 3 <= len(looked) <= 4
    live = train(digits(DIGITS['KD'], tmp_path / 'live', teachers))
    same(live, weights)


TRAININGS = """
import sys
import torch
from mmengine.config import Config
from mmengine.runner import Runner
import kd_plugins
from kd_plugins import launch
weights = {}
for path in sys.argv[1:]:
    cfg = Config.fromfile(path)
    cfg.launcher = 'pytorch'
    model = launch.build_runner(cfg).train()
    weights[cfg.experiment_name] = model.module.state_dict()
if torch.distributed.get_rank() == 0:
    torch.save(weights, 'weights.pth')
# Without it gloo on torch 2.1 hangs now and then where one rank leaves first.
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def test_two_ranks_fill_and_read_a_store(tmp_path, teachers):
    cache = dict(dir=str(tmp_path / 'store'), dtype='float32')
    names = dict(live=None, filling=cache, reading=cache)
    for name, each in names.items():
        cfg = digits(DIGITS['KD'], tmp_path / name, teachers, epochs=3, cache=each)
        # Of an odd number both ranks see one sample.
        cfg.train_dataloader.dataset.dataset.indices = 23
        cfg.train_dataloader.batch_size = 4
        cfg.default_hooks.checkpoint = None
        cfg.experiment_name = name
        cfg.dump(tmp_path / f'{name}.py')
    script = tmp_path / 'trainings.py'
    script.write_text(TRAININGS)
    run_on_two_ranks(script, *(f'{name}.py' for name in names), cwd=tmp_path)
    weights = torch.load(tmp_path / 'weights.pth')
    close(weights['live'], weights['filling'], 1e-4)
    close(weights['live'], weights['reading'], 1e-4)
    assert len([*(tmp_path / 'store').glob('*.records')]) >= 2


def test_check_compares_what_is_stored_with_the_live_teacher(tmp_path, teachers):
    cache = dict(dir=str(tmp_path / 'store'))
    cfg = digits(DIGITS['KD'], tmp_path / 'run', teachers, views=1, cache=cache)
    report = check(cfg, iterations=1, teacher_batches=1, debug=True)
    # It writes nothing, and asks the live teacher.
    assert not (tmp_path / 'store').exists() and report.teacher is not None
    assert [each.samples for each in report.stored] == [0]
    fill(Runner.from_cfg(cfg))
    cfg.experiment_name += '_read'
    report = check(cfg, iterations=1, teacher_batches=1, debug=True)
    (found,) = report.stored
    assert (found.samples, report.teacher) == (8, None)
    assert 0 < found.difference <= found.largest / 2048 and 0 < found.kl < 1e-6
    console = Console(file=io.StringIO(), width=300)
    show(report, console)
    said = console.file.getvalue()
    assert "ModuleOutputs(source='head.fc') of 8 pictures of the first batch, at most" in said
    assert 'all answers of the teacher are read from' in said
    assert json.loads(json.dumps(report.to_dict()))['stored'][0]['samples'] == 8
    # The file is gone: it trains all the same.
    cfg.model.teacher_ckpt = str(tmp_path / 'gone.pth')
    cfg.experiment_name += '_gone'
    report = check(cfg, iterations=1, teacher_batches=1, debug=True)
    assert report.ok and not report.stored
    assert any('cannot be compared' in each.what for each in report.findings)
