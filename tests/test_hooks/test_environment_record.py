import json
import subprocess
import sys

import torch
from helpers import ROOT
from helpers.tiny_training import config, train

import kd_plugins
from kd_plugins.experiments import environment


def starts(work_dir):
    return json.loads((work_dir / 'environment.json').read_text())


def test_every_start_leaves_what_it_ran_on(tmp_path):
    hook = {'default_hooks.environment': dict(type='kd_plugins.EnvironmentHook')}
    train(config(tmp_path, epochs=1, **hook))
    train(config(tmp_path, epochs=2, resume=True, **hook))
    first, second = starts(tmp_path)
    assert first['versions']['torch'] == torch.__version__.split('+')[0] or (
        first['versions']['torch'] == torch.__version__
    )
    assert first['versions']['kd_plugins'] == kd_plugins.__version__
    assert {'python', 'mmrazor', 'numpy'} < set(first['versions'])
    assert any('mmengine' in name for name in first['versions'])
    assert 'cores' in first['hardware'] or torch.cuda.is_available()
    assert first['command'] == sys.argv and first['processes'] == 1
    assert (first['seed'], first['deterministic']) == (0, False)
    assert (first['from_iteration'], second['from_iteration']) == (0, 3)
    # The whole config lies beside it.
    assert list(tmp_path.glob('*.py'))


def test_a_broken_file_is_begun_anew(tmp_path):
    (tmp_path / 'environment.json').write_text('[{')
    train(config(tmp_path, 1, **{'default_hooks.environment': dict(
        type='kd_plugins.EnvironmentHook')}))  # fmt: skip
    assert len(starts(tmp_path)) == 1


def git(folder, *arguments):
    command = ['git', '-C', str(folder), '-c', 'user.name=a', '-c', 'user.email=a@b', *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_commit_is_that_of_the_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert 'working directory' not in environment.commits()
    git(tmp_path, 'init', '-q')
    (tmp_path / 'config.py').write_text('a = 1')
    git(tmp_path, 'add', '.')
    git(tmp_path, 'commit', '-qm', 'first')
    git(tmp_path, 'tag', '-am', 'named', 'v1')
    head = git(tmp_path, 'rev-parse', 'HEAD')
    assert environment.commits()['working directory'] == head
    (tmp_path / 'config.py').write_text('a = 2')
    assert environment.commits()['working directory'] == f'{head}-dirty'
    # An installed package in somebody else's repository has no commit.
    (tmp_path / 'site').mkdir()
    (tmp_path / 'site' / '__init__.py').write_text('')
    monkeypatch.setattr(kd_plugins, '__file__', str(tmp_path / 'site' / '__init__.py'))
    assert 'kd_plugins' not in environment.commits()


def test_our_configs_write_it(tmp_path):
    from mmengine.config import Config

    cfg = Config.fromfile(ROOT / 'configs/dkd/dkd_digits.py')
    types = {name: hook['type'] for name, hook in cfg.default_hooks.items()}
    assert types['environment'] == 'kd_plugins.EnvironmentHook'
    assert types['checkpoint'] == 'kd_plugins.SafeCheckpointHook'
    assert types['guard'] == 'kd_plugins.DistillationGuardHook'
