"""Configs that tools are given: what cannot be read is one sentence."""

from pathlib import Path

import pytest

from kd_plugins.files.configs import read_config


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_settings_are_overridden_and_the_options_stay_as_they_are():
    Path('config.py').write_text('model = dict(depth=18, head=dict(classes=3))\n')
    options = {'model.head': dict(classes=4)}
    cfg = read_config('config.py', options)
    cfg.model.head.classes = 5
    assert cfg.model.depth == 18 and options == {'model.head': dict(classes=4)}
    assert read_config('config.py').model.head.classes == 3


@pytest.mark.parametrize('content, options, says', [
    ('a = 1\nb = (\n', {}, r"^config 'config.py', line 2, is no Python: '\(' was never closed\.$"),
    ("_base_ = 'base.py'\n", {}, r"^a config that 'config.py' inherits is no Python, line 1: "),
    ("custom_imports = dict(imports=['nothing_of_this_name'])\n", {},
     r"^config 'config.py' needs what cannot be imported: [^\n]*nothing_of_this_name'\]}$"),
    ('model = 3\n', {}, r'^config.py: model=3 is no model: give a dict with its type\.$'),
    ('model = [1]\n', {'model.3.a': 1}, r'^--cfg-options model.3.a does not fit config.py: '),
])  # fmt: skip
def test_what_cannot_be_read_is_one_sentence(content, options, says):
    Path('base.py').write_text('a = (\n')
    Path('config.py').write_text(content)
    with pytest.raises(ValueError, match=says):
        read_config('config.py', options)


def test_a_config_to_inherit_has_to_be_there():
    Path('config.py').write_text("_base_ = 'gone.py'\n")
    with pytest.raises(FileNotFoundError, match='gone.py'):
        read_config('config.py')
