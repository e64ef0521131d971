import dataclasses
import json
import os
import pickle
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from helpers.tiny_runs import tiny_run

from kd_plugins.experiments import progress, repeat, results
from kd_plugins.experiments import run as running
from kd_plugins.experiments.identity import config_hash
from kd_plugins.experiments.repeat import RunsFailedError, run_all
from kd_plugins.experiments.results import Failure, Result
from kd_plugins.experiments.run import RunBusyError

TOOL = ROOT / 'tools' / 'repeat.py'


@pytest.fixture
def tool(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(TOOL.parent))
    monkeypatch.chdir(tmp_path)
    import repeat

    def call(*arguments):
        monkeypatch.setattr(sys, 'argv', ['repeat.py', *map(str, arguments)])
        repeat.main()

    call.module = repeat
    return call


@pytest.fixture
def config(tmp_path):
    """A short training of the digits student, with a figure in the metafile beside it."""
    path = tmp_path / 'short.py'
    path.write_text(
        f"_base_ = ['{ROOT}/configs/vanilla/digits_student.py']\n"
        "log_level = 'WARNING'\n"
        'train_cfg = dict(max_epochs=3, val_interval=1)\n'
        'train_dataloader = dict(dataset=dict(indices=64))\n'
        'val_dataloader = dict(dataset=dict(indices=40))\n'
    )
    rows = [
        dict(
            Name=name,
            Metadata={'Source of results': 'paper'},
            Results=[dict(Metrics={'Top 1 Accuracy': figure})],
        )
        for name, figure in (('other', 50.0), ('short', 71.97))
    ]
    # JSON is YAML.
    (tmp_path / 'metafile.yml').write_text(json.dumps(dict(Models=rows)))
    return path


def test_the_summary_of_another_config_is_kept(tool, config, capsys):
    arguments = (config, '--seeds', 1, '--jobs', 1, '--work-dir', 'out')
    tool(*arguments)
    first = Path('out/repeat.json').read_bytes()
    tool(*arguments)
    assert [path.name for path in Path('out').glob('*.json')] == ['repeat.json']
    assert Path('out/repeat.json').read_bytes() == first
    capsys.readouterr()
    tool(*arguments, '--cfg-options', 'train_cfg.max_epochs=1')
    kept = Path('out', f'repeat-{json.loads(first)["config_hash"]}.json')
    assert kept.read_bytes() == first and str(kept) in capsys.readouterr().out.replace('\n', '')
    assert len(json.loads(Path('out/repeat.json').read_text())['seeds'][0]['accuracy']) == 1


def test_trains_every_seed_once_and_reports_last_and_best(tool, config, tmp_path, capsys):
    tool(config, '--seeds', 3, 1, '--jobs', 2, '--work-dir', 'out')
    printed = capsys.readouterr().out
    summary = json.loads(Path('out/repeat.json').read_text())
    rows = summary['seeds']
    assert [row['seed'] for row in rows] == [3, 1]
    kept = [json.loads(Path(f'out/{seed}/result.json').read_text()) for seed in (3, 1)]
    for row, result in zip(rows, kept, strict=True):
        assert len(row['accuracy']) == 3 and row['accuracy'] == result['accuracy']
        assert row['last'] == row['accuracy'][2] and row['best'] == sorted(row['accuracy'])[2]
        assert 0 < row['seconds'] < 60
    for column in ('last', 'best', 'seconds'):
        a, b = (row[column] for row in rows)
        assert summary[column]['mean'] == pytest.approx((a + b) / 2)
        assert summary[column]['deviation'] == pytest.approx(abs(a - b) / 2**0.5)
    assert kept[0]['accuracy'] != kept[1]['accuracy']
    assert summary['listed'] == dict(figure=71.97, source='paper')
    assert summary['versions']['torch'] == torch.__version__.split('+')[0] or (
        summary['versions']['torch'] == torch.__version__
    )
    assert summary['parameters'] == 10978 and summary['hardware']
    for text in (
        'seed 3: last',
        'the metafile lists 71.97 (paper)',
        f'{summary["best"]["mean"]:.2f}',
    ):
        assert text in printed
    # Both are kept; a third seed is trained beside them.
    trained = []
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(progress, 'run_all', lambda runs, *rest: _only_new(runs, trained))
        tool(config, '--seeds', 3, 1, 4, '--work-dir', 'out')
    assert [run.seed for run in trained] == [4]


def _only_new(runs, trained):
    kept = {run: results.finished(run) for run in runs}
    trained.extend(run for run in runs if kept[run] is None)
    some = next(result for result in kept.values() if result)
    return {run: result or some for run, result in kept.items()}


def fake(monkeypatch, tool, accuracies, data=''):
    """Results in the place of trainings."""
    seen = {}

    def run_all(runs, jobs, log, report, tick, devices, tell):
        seen.update(runs=runs, jobs=jobs, devices=devices)
        return {
            run: Result('hash', [1, 2], accuracy, [0], 7, 1.0, data=dict(val=data[run.seed :][:1]))
            for run, accuracy in zip(reversed(runs), reversed(accuracies), strict=True)
        }

    monkeypatch.setattr(progress, 'run_all', run_all)
    return seen


def test_figures_are_those_of_the_seeds_in_their_order(tool, config, monkeypatch):
    accuracies = [[10.0, 40.0, 30.0], [20.0, 35.0, 37.0], [50.0, 41.0, 32.0]]
    fake(monkeypatch, tool, accuracies)
    tool(config, '--seeds', 0, 1, 2)
    summary = json.loads(Path('work_dirs/repeat/short/repeat.json').read_text())
    assert [(row['last'], row['best']) for row in summary['seeds']] == [
        (30, 40),
        (37, 37),
        (32, 50),
    ]
    assert summary['last'] == dict(mean=33.0, deviation=pytest.approx(13**0.5))
    assert summary['best']['deviation'] == pytest.approx(statistics.stdev([40, 37, 50]))


@pytest.mark.parametrize('data, said', [('aa', False), ('ab', True)])
def test_seeds_of_other_data_are_said(tool, config, monkeypatch, capsys, data, said):
    fake(monkeypatch, tool, [[10.0, 40.0], [20.0, 35.0]], data)
    tool(config, '--seeds', 0, 1)
    words = ' '.join(capsys.readouterr().out.split())
    assert ('seed 0 and seed 1 are of other data: the val set' in words) == said


def test_one_seed_has_no_deviation(tool, config, monkeypatch, capsys):
    fake(monkeypatch, tool, [[10.0]])
    tool(config, '--seeds', 0)
    summary = json.loads(Path('work_dirs/repeat/short/repeat.json').read_text())
    assert summary['last'] == dict(mean=10.0, deviation=None)
    assert 'nan' not in capsys.readouterr().out


def test_overrides_reach_every_run_and_the_config_hash(tool, config, monkeypatch):
    seen = fake(monkeypatch, tool, [[1.0], [2.0]])
    tool(config, '--seeds', 0, 1)
    path = Path('work_dirs/repeat/short/repeat.json')
    plain = json.loads(path.read_text())
    tool(config, '--seeds', 0, 1, '--cfg-options', 'optim_wrapper.optimizer.lr=0.5')
    changed = json.loads(path.read_text())
    for run in seen['runs']:
        cfg = results.load_config(run)
        assert cfg.optim_wrapper.optimizer.lr == 0.5 and cfg.randomness.seed == run.seed
    assert plain['config_hash'] != changed['config_hash']
    assert changed['cfg_options'] == {'optim_wrapper.optimizer.lr': 0.5}
    assert changed['listed'] == plain['listed']
    # The hash is the config's: no matter which seeds.
    fake(monkeypatch, tool, [[1.0], [2.0]])
    tool(config, '--seeds', 5, 6)
    assert json.loads(path.read_text())['config_hash'] == plain['config_hash']


@pytest.mark.parametrize('gpus, jobs', [(3, 3), (0, None)])
def test_runs_go_to_all_gpus_or_all_cores(gpus, jobs, tool, config, monkeypatch):
    seen = fake(monkeypatch, tool, [[1.0]])
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: gpus)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda i: f'GPU {i}')
    monkeypatch.setattr(progress.os, 'cpu_count', lambda: 11)
    tool(config, '--seeds', 0)
    assert seen['devices'] == list(range(gpus)) and seen['jobs'] == (jobs or 11)


def test_a_process_takes_the_gpu_that_it_is_given(tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, 'set_device', taken.append)
    monkeypatch.setattr(torch, 'set_num_threads', lambda n: None)
    monkeypatch.setattr(repeat.os, 'dup2', lambda a, b: None)
    monkeypatch.setattr(repeat.logging, 'captureWarnings', lambda on: None)
    for device in (1, 0, None):
        repeat._start_process(str(tmp_path / 'log'), device)
    assert taken == [1, 0]


def test_a_failing_seed_is_named_and_the_others_are_reported(tool, config, monkeypatch, capsys):
    def run_all(runs, jobs, log, report, tick, devices, tell):
        results = {runs[0]: Result('hash', [1], [30.0], [], 7, 1.0)}
        failures = {runs[1]: Failure('TimeoutError: no [answer]')}
        for run, outcome in {**failures, **results}.items():
            report(run, outcome)
        raise RunsFailedError(results, failures, log)

    monkeypatch.setattr(progress, 'run_all', run_all)
    with pytest.raises(SystemExit, match=r'1 of 2 seeds failed; see .*output.log'):
        tool(config, '--seeds', 4, 5)
    printed = capsys.readouterr().out
    assert 'seed 5: failed: TimeoutError: no [answer]' in printed and '30.00' in printed
    summary = json.loads(Path('work_dirs/repeat/short/repeat.json').read_text())
    assert [row['seed'] for row in summary['seeds']] == [4]
    assert summary['failed'] == [dict(seed=5, reason='TimeoutError: no [answer]')]


def test_errors_of_runs_are_theirs_alone(tmp_path):
    """On Python 3.11 a run's TimeoutError once looked like that of waiting for it."""
    hook = dict(type='Misbehave', seeds={'1': 'timeout', '2': 'killed'})
    runs = [tiny_run(tmp_path, 1, seed=seed, custom_hooks=[hook]) for seed in (1, 2, 0)]
    runs.append(dataclasses.replace(runs[0], config='nowhere.py', work_dir=str(tmp_path / 'no')))
    told = {}
    with pytest.raises(RunsFailedError) as raised:
        run_all(runs, 2, tmp_path / 'log', lambda run, outcome: told.update({run: outcome}))
    error = raised.value
    assert list(error.results) == [runs[2]] and error.results[runs[2]].steps == [1]
    assert results.finished(runs[2]) == error.results[runs[2]] == told[runs[2]]
    assert list(error.failures) == [runs[0], runs[1], runs[3]] and len(told) == 4
    timeout, killed, nowhere = (failure.reason for failure in error.failures.values())
    assert timeout == 'TimeoutError: the storage did not answer'
    assert killed.startswith('BrokenProcessPool: ')
    assert nowhere.startswith('FileNotFoundError: ') and 'nowhere.py' in nowhere
    assert '3 of 4 runs failed (tiny, seed 1: TimeoutError: the storage' in str(error)
    # What a process had to say is in the log.
    assert 'TimeoutError: the storage did not' in (tmp_path / 'log').read_text()


@pytest.mark.parametrize(
    'what, reason',
    [('unpicklable', 'BadNewsError: number 1 of 2'), ('exit', 'SystemExit: not today')],
)
def test_an_error_of_any_kind_becomes_an_answer(what, reason, tmp_path):
    run = tiny_run(tmp_path, 1, custom_hooks=[dict(type='Misbehave', seeds={'3': what})])
    answer = repeat._try(repeat.run_once, run, config_hash(results.load_config(run)))
    assert pickle.loads(pickle.dumps(answer)) == Failure(reason)


def test_a_killed_repeat_leaves_nobody_who_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(running, 'LOCK_SECONDS', 0)
    hook = dict(type='Misbehave', seeds={'3': 'sleep'})
    run = tiny_run(tmp_path, 1, custom_hooks=[hook])
    code = (
        'from pathlib import Path\n'
        'from kd_plugins.experiments.repeat import run_all\n'
        'from kd_plugins.experiments.results import Run\n'
        "if __name__ == '__main__':\n"
        f'    run_all([{run!r}], 1, Path({str(tmp_path / "log")!r}), lambda *_: None)\n'
    )
    script = tmp_path / 'script.py'
    script.write_text(code)
    path = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / 'tests')]))
    noted = Path(run.work_dir) / 'pid'
    with subprocess.Popen([sys.executable, str(script)], env=path) as parent:
        wait_for(lambda: noted.is_file() or parent.poll() is not None)
        assert noted.is_file(), (tmp_path / 'log').read_text()
        with pytest.raises(RunBusyError):
            with_lock(run)
        os.kill(parent.pid, signal.SIGKILL)

    def free():
        try:
            return with_lock(run) is None
        except RunBusyError:
            return False

    wait_for(free)
    assert not (Path(run.work_dir) / 'result.json').exists()


def with_lock(run):
    with running.only_one(Path(run.work_dir)):
        pass


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    'arguments, says',
    [
        ([ROOT / 'configs/vanilla/digits_student.py', '--jobs', 0], 'a number of runs above 0'),
        (['nowhere.py'], "config 'nowhere.py' is not a file"),
        ([ROOT / 'configs/vanilla/digits_student.py', '--seeds', 1, 1], 'repeats a seed'),
    ],
)
def test_bad_arguments_are_named(tool, arguments, says, capsys):
    with pytest.raises(SystemExit) as raised:
        tool(*arguments)
    assert raised.value.code == 2 and says in capsys.readouterr().err
