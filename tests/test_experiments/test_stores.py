"""Runs over seeds fill the store of their teacher once, and then all read it."""

import json
import threading
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.stored import noisy, pair, save_network, save_teacher, start, train
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.structures import DataSample  # noqa: F401  (registers what configs name)

from kd_plugins.experiments.repeat import RunsFailedError, run_all
from kd_plugins.experiments.results import Result, Run
from kd_plugins.experiments.stores import Filling, fill_store, runs_by_store
from kd_plugins.files import records as files

SHORT = {
    'train_cfg.max_epochs': 2,
    'train_cfg.val_interval': 2,
    'train_dataloader.dataset.views': 3,
    'train_dataloader.dataset.dataset.indices': 24,
    'val_dataloader.dataset.indices': 20,
    'model.teacher_cache.views': 3,
    'log_level': 'WARNING',
}


@pytest.fixture
def options(tmp_path, monkeypatch):
    """Settings of a short training with a teacher, and where its store is."""
    monkeypatch.chdir(tmp_path)
    init_default_scope('mmpretrain')
    teacher = Config.fromfile(ROOT / 'configs/kd/kd_digits.py').model.teacher
    path = save_network(tmp_path / 'teacher.pth', dict(teacher, _scope_='mmpretrain'))
    return {**SHORT, 'model.teacher_ckpt': path, 'model.teacher_cache.dir': 'store'}


def run(name, seed, options):
    return Run(name, str(ROOT / f'configs/{name}.py'), seed, f'runs/{name}/{seed}', options)


def test_seeds_fill_their_store_once_and_read_it(options):
    stored = [run('kd/kd-stored_digits', seed, options) for seed in (0, 1)]
    few = {k: v for k, v in SHORT.items() if 'train_dataloader' not in k and 'cache' not in k}
    few['train_dataloader.dataset.indices'] = 24
    alone = run('vanilla/digits_student', 0, few)
    told, ticks = [], []
    results = run_all(
        [*stored, alone], 2, Path('output.log'), lambda *_: None, ticks.append,
        tell=told.append,
    )  # fmt: skip
    assert all(isinstance(result, Result) for result in results.values())
    # Nothing is trained while the store is filled, and all of it after that.
    assert ticks[0] == [] and {run for running in ticks for run in running} == {*stored, alone}
    # One process has written, and no training after it.
    assert len([*Path('store').glob('*.records')]) == 1
    assert json.loads(Path('store/header.json').read_text())['data']['samples'] == 24
    (said,) = told
    assert "'store' is complete: the teacher was asked about 72 pictures in " in said
    assert said.endswith('these runs would ask it about 96.')
    # A seed more finds it complete, even without the teacher.
    Path(options['model.teacher_ckpt']).unlink()
    run_all([run('kd/kd-stored_digits', 2, options)], 1, Path('output.log'), lambda *_: None,
            tell=told.append)  # fmt: skip
    assert 'the teacher is not asked any more' in told[1] and told[1].endswith('about 48.')


def test_a_store_that_cannot_be_filled_stops_its_runs_and_no_others(options):
    options['model.teacher_ckpt'] = 'gone.pth'
    stored = run('kd/kd-stored_digits', 0, options)
    few = {k: v for k, v in SHORT.items() if 'train_dataloader' not in k and 'cache' not in k}
    alone = run('vanilla/digits_student', 0, few)
    with pytest.raises(RunsFailedError, match="model.teacher_ckpt='gone.pth' is not a file") as why:
        run_all([stored, alone], 1, Path('output.log'), lambda *_: None)
    assert [*why.value.failures] == [stored] and [*why.value.results] == [alone]


def test_the_config_that_reads_most_fills_the_store(options):
    more = {
        **options,
        'model.distiller.teacher_recorders.maps': dict(type='ModuleOutputs', source='backbone'),
    }
    runs = [run('kd/kd-stored_digits', 0, options), run('kd/kd-stored_digits', 1, more)]
    assert runs_by_store([*runs, run('vanilla/digits_student', 0, {})]) == {'store': runs}
    unwritten = run('kd/kd-stored_digits', 3, {**options, 'model.teacher_cache.write': False})
    assert runs_by_store([unwritten]) == {}
    filling = fill_store(runs)
    assert (filling.folder, filling.written, filling.samples) == ('store', 72, 24)
    header = json.loads(Path('store/header.json').read_text())
    assert len(header['records']) == 2
    assert fill_store(runs[:1]).written == 0


def test_what_is_saved_counts_iterations_as_well(options):
    by_iter = {**options, 'train_cfg': dict(_delete_=True, by_epoch=False, max_iters=9)}
    said = Filling('store', 10, 2.0, 24).saved([run('kd/kd-stored_digits', 0, by_iter)])
    # 9 batches of 32.
    assert 'asked about 10 pictures in 2.0 s' in said and said.endswith('about 288.')


def test_what_is_saved_counts_what_an_epoch_shows(options):
    """Not the training set: one sampler leaves the rest out, another draws a few of many."""
    rest = {**options, 'train_dataloader.batch_size': 16, 'train_dataloader.drop_last': True}
    filling = fill_store([run('kd/kd-stored_digits', 0, rest)])
    assert (filling.written, filling.samples) == (72, 16)
    assert filling.saved([run('kd/kd-stored_digits', 0, rest)]).endswith('about 32.')
    one = Config.fromfile(ROOT / 'configs/kd/kd_digits.py').train_dataloader.dataset
    joined = dict(type='ConcatDataset', datasets=[dict(one, indices=n) for n in (6, 18)])
    few = {
        **options,
        'train_dataloader.dataset.dataset': dict(joined, _delete_=True),
        'train_dataloader.batch_size': 6,
        'train_dataloader.sampler': dict(
            type='kd_plugins.MultiSourceSampler', _delete_=True, batch_size=6, source_ratio=[1, 1]
        ),
        'model.teacher_cache.dir': 'joined',
    }
    del few['train_dataloader.dataset.dataset.indices']
    filling = fill_store([run('kd/kd-stored_digits', 0, few)])
    # Two batches go through the six.
    assert (filling.written, filling.samples) == (72, 12)
    assert filling.saved([run('kd/kd-stored_digits', 0, few)]).endswith('about 24.')


def test_who_fills_a_store_waits_for_another_and_asks_nothing_again(tmp_path, monkeypatch):
    checkpoint = save_teacher(tmp_path / 'teacher.pth')
    first = start(pair(tmp_path / 'store', checkpoint), noisy())
    second = MODELS.build(pair(tmp_path / 'store', checkpoint))
    found = []
    waiting = threading.Thread(
        target=lambda: (second.teacher.begin(noisy(), wait=True), found.append(1))
    )
    told = threading.Event()
    monkeypatch.setattr(files, 'print_log', lambda said, *_: 'waiting' in said and told.set())
    waiting.start()
    assert told.wait(60) and waiting.is_alive() and not found
    train(first, noisy())
    first.teacher.release()
    waiting.join(60)
    assert found and second.teacher.store.missing == 0
    # Nobody keeps it from being deleted or written.
    files.Lock(tmp_path / 'store', patience=0).release()


def test_nothing_is_written_while_another_job_holds_the_folder(tmp_path, monkeypatch):
    checkpoint = save_teacher(tmp_path / 'teacher.pth')
    (tmp_path / 'store').mkdir()
    held = files.Lock(tmp_path / 'store')
    monkeypatch.setattr(files, 'PATIENCE', 0.0)
    with pytest.raises(ValueError, match='is being written by another job'):
        start(pair(tmp_path / 'store', checkpoint), noisy())
    assert not (tmp_path / 'store/header.json').exists()
    held.release()
    start(pair(tmp_path / 'store', checkpoint), noisy())
    assert (tmp_path / 'store/header.json').exists()
