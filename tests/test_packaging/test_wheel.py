"""The wheel, installed where the repository is not."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from helpers import ROOT

OPTIONS = [
    'train_dataloader.dataset.indices=96',
    'val_dataloader.dataset.indices=64',
    'test_dataloader.dataset.indices=64',
    'train_cfg.max_epochs=1',
]


def run(*command, cwd):
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    environment['OMP_NUM_THREADS'] = '1'
    reply = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert reply.returncode == 0, reply.stdout[-2000:] + reply.stderr[-3000:]
    return reply.stdout + reply.stderr


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """Build from a copy, since setuptools leaves its files in the source tree."""
    source = tmp_path_factory.mktemp('source') / 'kd_plugins'
    skip = shutil.ignore_patterns(
        '.*', 'work_dirs', 'data', 'build', 'dist', '*.egg-info', '__pycache__'
    )
    shutil.copytree(ROOT, source, ignore=skip)
    out = tmp_path_factory.mktemp('wheel')
    run(sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '-w', out,
        source, cwd=out)  # fmt: skip
    return next(out.glob('*.whl'))


@pytest.fixture(scope='module')
def python(wheel, tmp_path_factory):
    """An environment with the wheel, and with this one's packages but ours."""
    folder = tmp_path_factory.mktemp('fresh') / 'venv'
    venv.create(folder, with_pip=True)
    python = folder / 'bin' / 'python'
    version = f'python{sys.version_info.major}.{sys.version_info.minor}'
    site = folder / 'lib' / version / 'site-packages'
    # Only the folder is added: its own .pth files, editable installs among them, are not read.
    borrowed = Path(sysconfig.get_paths()['purelib'])
    (site / 'borrowed.pth').write_text(f'{borrowed}\n')
    # setuptools' stand-in for distutils, which Python 3.12 has no more and mmengine asks for.
    if (precedence := borrowed / 'distutils-precedence.pth').is_file():
        shutil.copy(precedence, site)
    run(python, '-m', 'pip', 'install', '--no-deps', '--no-index', wheel, cwd=folder)
    where = run(python, '-c', 'import kd_plugins; print(kd_plugins.__file__)', cwd=folder)
    assert str(site) in where
    return python


def test_carries_what_mim_needs(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for parent in ('kd_plugins', next(n for n in names if 'dist-info' in n).split('/')[0]):
        inside = {n[len(parent) + 6 :] for n in names if n.startswith(f'{parent}/.mim/')}
        repository = {
            path.relative_to(ROOT).as_posix()
            for folder in ('configs', 'tools')
            for path in (ROOT / folder).rglob('*')
            if path.is_file() and '__pycache__' not in path.parts and 'dev' not in path.parts
        }
        assert inside == repository | {'model-index.yml'}


def test_mim_finds_configs_by_base_name_from_any_directory(python, tmp_path):
    mim = (python, '-m', 'mim')
    options = ('--cfg-options', *OPTIONS)
    distilled = [*options, f'model.teacher_ckpt={tmp_path}/teacher.pth']
    run(*mim, 'train', 'kd_plugins', 'digits_teacher.py', '--gpus', 0, *options, cwd=tmp_path)
    (tmp_path / 'work_dirs/digits_teacher/epoch_1.pth').rename(tmp_path / 'teacher.pth')
    run(*mim, 'train', 'kd_plugins', 'kd_digits.py', '--gpus', 0, *distilled, cwd=tmp_path)
    checkpoint = tmp_path / 'work_dirs/kd_digits/epoch_1.pth'
    printed = run(*mim, 'test', 'kd_plugins', 'kd_digits.py', '--checkpoint', checkpoint,
                  '--gpus', 0, *distilled, cwd=tmp_path)  # fmt: skip
    assert 'accuracy/top1' in printed
