"""What lists the methods, made from a tree in which one method has just been added."""

import os
import runpy
import shutil
import subprocess
import sys

import pytest
import torch
from helpers import ROOT
from mmengine.config import Config
from mmengine.registry import MODELS
from modelindex.load_model_index import load

from kd_plugins.new_config import writing
from kd_plugins.new_config.methods import methods
from kd_plugins.new_config.writing import Request, write_config

METAFILE = """
Collections:
  - Name: NEW
    Metadata:
      Training Techniques:
        - Bringing the logits together
    Paper:
      URL: https://arxiv.org/abs/9912.00001
      Title: A new method
    README: configs/new/README.md
    Table:
      Paper: Nowhere 1999
      Ours: digits 12.34
      Theirs: nothing
    Ways of Training:
      accumulation: is not
    New Config:
      Task: Image Classification
      distill_losses:
        loss_new: {type: LossOfATest, weight: 0.5}
Models:
  - Name: new_digits
    In Collection: NEW
    Config: configs/new/new_digits.py
"""


class LossOfATest(torch.nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, preds_S, preds_T):
        return self.weight * (preds_S - preds_T.detach()).square().sum()


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    """The repository, with a folder of configs more and nothing else changed."""
    tree = tmp_path_factory.mktemp('tree') / 'repository'
    skip = shutil.ignore_patterns('__pycache__', '.mim')
    for name in ('configs', 'kd_plugins', 'tools', 'requirements'):
        shutil.copytree(ROOT / name, tree / name, ignore=skip)
    for name in ('setup.py', 'README.md'):
        shutil.copy(ROOT / name, tree)
    new = tree / 'configs' / 'new'
    new.mkdir()
    (new / 'metafile.yml').write_text(METAFILE)
    (new / 'README.md').write_text('# NEW\n')
    shutil.copy(ROOT / 'configs/kd/kd_digits.py', new / 'new_digits.py')
    return tree


@pytest.fixture(scope='module')
def built(tree, tmp_path_factory):
    """What a wheel of it would install."""
    folder = tmp_path_factory.mktemp('built')
    line = [sys.executable, 'setup.py', '-q', 'build_py', '--build-lib', str(folder)]
    subprocess.run(line, cwd=tree, check=True)
    return folder


def test_the_index_is_valid_and_its_files_exist(built):
    carried = built / 'kd_plugins' / '.mim'
    index = load(str(carried / 'model-index.yml'))
    index.build_models_with_collections()
    # OpenMMLab and mim count paths from the repository, model-index from the metafile.
    assert not [error for error in index.check(silent=True) if 'valid file' not in error]
    models = index.models.data
    listed = {model.config for model in models}
    assert listed and all((carried / path).is_file() for path in listed)
    assert all((carried / collection.readme).is_file() for collection in index.collections.data)
    assert all(model.name == model.config.split('/')[-1].removesuffix('.py') for model in models)


def test_the_index_has_every_folder_and_the_new_one(built):
    models = load(str(built / 'kd_plugins/.mim/model-index.yml')).models.data
    assert {model.config.split('/')[1] for model in models} == {'new'} | {
        path.parent.name for path in (ROOT / 'configs').glob('*/metafile.yml')
    }


def test_an_installed_new_config_offers_the_new_method(built, tmp_path):
    tool = built / 'kd_plugins/.mim/tools/new_config.py'
    environment = dict(os.environ, PYTHONPATH=str(built), COLUMNS='200', OMP_NUM_THREADS='1')
    reply = subprocess.run(
        [sys.executable, tool, '--help'], cwd=tmp_path, env=environment, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    offered = sorted(['alone', 'new', *methods(ROOT / 'configs')])
    assert len(offered) > 10 and f'{{{",".join(offered)}}}' in reply.stdout


def test_a_new_method_with_its_own_loss_is_written(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, 'methods', lambda: methods(tree / 'configs'))
    monkeypatch.setitem(MODELS._module_dict, 'LossOfATest', LossOfATest)
    paths = [str(ROOT / f'configs/vanilla/digits_{who}.py') for who in ('student', 'teacher')]
    write_config(Request(paths[0], 'new', tmp_path / 'my.py', paths[1], 'teacher.pth'))
    cfg = Config.fromfile(tmp_path / 'my.py')
    assert cfg.model.distiller.distill_losses == dict(loss_new=dict(type='LossOfATest', weight=0.5))
    assert set(cfg.model.distiller.loss_forward_mappings.loss_new) == {'preds_S', 'preds_T'}


def tables():
    return runpy.run_path(str(ROOT / 'tools/dev/methods_table.py'))


def added(before, after):
    """Return the one line more, if nothing else has changed."""
    lines = [line for line in after.splitlines() if line not in before.splitlines()]
    assert len(after.splitlines()) == len(before.splitlines()) + len(lines)
    return lines


def test_readmes_table_is_that_of_the_metafiles(tree):
    readme = (ROOT / 'README.md').read_text()
    rewrite = tables()['with_methods']
    assert rewrite(readme, ROOT / 'configs') == readme, 'run: make format'
    row = '| NEW | [Nowhere 1999](https://arxiv.org/abs/9912.00001) | [configs/new](configs/new) | '
    assert added(readme, rewrite(readme, tree / 'configs')) == [row + 'digits 12.34 | nothing |']


def test_ways_of_training_are_those_of_the_metafiles(tree, tmp_path):
    page = (ROOT / 'docs/strategies.md').read_text()
    rewrite = tables()['with_exceptions']
    assert rewrite(page, ROOT / 'configs') == page, 'run: make format'
    assert added(page, rewrite(page, tree / 'configs')) == ['| NEW | accumulation | is not |']
    wrong = tmp_path / 'wrong/metafile.yml'
    wrong.parent.mkdir()
    wrong.write_text(METAFILE.replace('accumulation:', 'on one leg:'))
    with pytest.raises(ValueError, match=r"wrong/metafile.yml: 'on one leg' is not one of .*EMA"):
        rewrite(page, tmp_path)
