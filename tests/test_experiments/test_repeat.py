import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT

from kd_plugins.experiments import repeat, results
from kd_plugins.experiments.results import Result

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
        patch.setattr(tool.module, 'run_all', lambda runs, *rest: _only_new(runs, trained))
        tool(config, '--seeds', 3, 1, 4, '--work-dir', 'out')
    assert [run.seed for run in trained] == [4]


def _only_new(runs, trained):
    kept = {run: results.finished(run) for run in runs}
    trained.extend(run for run in runs if kept[run] is None)
    some = next(result for result in kept.values() if result)
    return {run: result or some for run, result in kept.items()}


def fake(monkeypatch, tool, accuracies):
    """Results in the place of trainings."""
    seen = {}

    def run_all(runs, jobs, log, report, tick, devices):
        seen.update(runs=runs, jobs=jobs, devices=devices)
        return {
            run: Result('hash', [1, 2], accuracy, [0], 7, 1.0)
            for run, accuracy in zip(reversed(runs), reversed(accuracies), strict=True)
        }

    monkeypatch.setattr(tool.module, 'run_all', run_all)
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
    monkeypatch.setattr(tool.module.os, 'cpu_count', lambda: 11)
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


@pytest.mark.parametrize(
    'arguments, says',
    [
        (['nowhere.py'], "config 'nowhere.py' is not a file"),
        ([ROOT / 'configs/vanilla/digits_student.py', '--seeds', 1, 1], 'repeats a seed'),
    ],
)
def test_bad_arguments_are_named(arguments, says, tmp_path):
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    reply = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert reply.returncode == 2 and says in reply.stderr
