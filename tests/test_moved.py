"""Old names of modules, as configs and scripts of users have them."""

import importlib
import subprocess
import sys

import pytest
import torch
from helpers import ROOT
from helpers.tiny_training import config, train

from kd_plugins.compat.moved import MOVED


@pytest.mark.parametrize(('old', 'new'), MOVED.items())
def test_an_old_name_is_the_same_module(old, new):
    module = importlib.import_module(new)
    spec = module.__spec__
    assert importlib.import_module(old) is module and sys.modules[old] is module
    assert getattr(sys.modules['kd_plugins'], old.split('.')[1]) is module
    assert module.__name__ == module.__spec__.name == new and module.__spec__ is spec


def test_what_is_below_an_old_name_is_not_made_twice():
    new = importlib.import_module('kd_plugins.inspect.check.report')
    assert importlib.import_module('kd_plugins.preflight.report') is new


def test_names_that_never_were_are_not_found():
    for name in ('kd_plugins.storages', 'kd_plugins.preflight.nothing'):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name)


@pytest.mark.parametrize(
    'line',
    [
        'from kd_plugins.storage import AtomicLocalBackend, ATOMIC',
        'from kd_plugins.checkpoints import load, TRUST',
        'from kd_plugins.export import export_student, save',
        'from kd_plugins import scalars',
        'import kd_plugins.preflight as preflight',
    ],
)
def test_the_first_import_may_be_of_an_old_name(line):
    subprocess.run(
        [sys.executable, '-W', 'error::ImportWarning:kd_plugins', '-c', line], cwd=ROOT, check=True
    )


def test_a_config_that_imports_the_storage_writes_by_it(tmp_path):
    from mmengine.config import Config

    path = tmp_path / 'config.py'
    path.write_text("custom_imports = dict(imports=['kd_plugins.storage'])\n")
    Config.fromfile(path)
    backend = {'default_hooks.checkpoint.backend_args': dict(backend='kd_plugins.atomic')}
    train(config(tmp_path, epochs=1, **backend))
    assert 'state_dict' in torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
