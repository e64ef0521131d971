"""A new method is one loss file, one config folder and one test: what enumerates finds it."""

import os
import shutil
import subprocess
import sys

from helpers import ROOT

LOSS = '''"""NEW: the logits are brought together."""

from __future__ import annotations

from torch import Tensor

from kd_plugins.losses.base import LogitsLoss, batch_mean
from kd_plugins.registry import MODELS

__all__ = ['NewLoss', 'new_loss']


def new_loss(preds_S: Tensor, preds_T: Tensor, tau: float | Tensor) -> Tensor:
    """Mean square of the differences of two networks' logits (N, C), for each sample."""
    return ((preds_S - preds_T) / tau).square().mean(1)


@MODELS.register_module()
class NewLoss(LogitsLoss):
    """:func:`new_loss` times ``loss_weight``."""

    def forward(self, preds_S: Tensor, preds_T: Tensor, gt_labels: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar in float32 or better."""
        return batch_mean(new_loss(*self._prepare(preds_S, preds_T))) * self.loss_weight
'''
CONFIG = """# python tools/train.py configs/vanilla/digits_teacher.py
# python tools/train.py configs/new/new_digits.py
_base_ = ['../_base_/models/digits_distill.py']

model = dict(
    distiller=dict(
        distill_losses=dict(loss_kd=dict(type='kd_plugins.NewLoss', tau=4.0, loss_weight=0.1)),
    ),
)
"""
METAFILE = """
Collections:
  - Name: NEW
    Paper:
      URL: https://arxiv.org/abs/9912.00001
      Title: A new method
    README: configs/new/README.md
    New Config:
      Task: Image Classification
      distill_losses:
        loss_new: {type: kd_plugins.NewLoss, tau: 4.0, loss_weight: 0.1}
Models:
  - Name: new_digits
    In Collection: NEW
    Config: configs/new/new_digits.py
"""
TEST = """
import torch
from helpers.strategies import Method, sgd, vectors

from kd_plugins.losses import new_loss

STRATEGIES = {'NEW': Method(vectors(type='kd_plugins.NewLoss'), sgd())}


def test_is_the_formula():
    student, teacher = torch.eye(2).double(), torch.ones(2, 2).double()
    assert new_loss(student, teacher, 2.0).tolist() == [0.125, 0.125]
"""
#: What finds a method by itself, each on the new one.
FOUND = [
    'test_losses/test_new.py',
    'test_losses/test_names.py::test_a_methods_name_finds_it[new]',
    'test_configs/test_configs.py::test_builds_and_gives_finite_losses[configs/new/new_digits.py]',
    'test_determinism.py::test_no_loss_is_left_out',
    'test_new_config/test_new_config.py::test_a_folder_offers_what_its_configs_train_with[new]',
    'test_strategies.py::test_accumulation_is_the_whole_batch[NEW]',
    'test_strategies.py::test_bfloat16_autocast[NEW]',
    'test_strategies.py::test_channels_last_gives_the_same_losses[new_digits]',
]


def test_three_things_are_all_it_takes(tmp_path):
    skip = shutil.ignore_patterns('__pycache__', '.mim')
    for name in ('configs', 'kd_plugins', 'tests', 'tools'):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=skip)
    shutil.copy(ROOT / 'pytest.ini', tmp_path)
    (tmp_path / 'kd_plugins/losses/new.py').write_text(LOSS)
    folder = tmp_path / 'configs/new'
    folder.mkdir()
    (folder / 'README.md').write_text('# NEW\n')
    (folder / 'metafile.yml').write_text(METAFILE)
    (folder / 'new_digits.py').write_text(CONFIG)
    (tmp_path / 'tests/test_losses/test_new.py').write_text(TEST)
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider']
    reply = subprocess.run(
        [*command, *(f'tests/{name}' for name in FOUND)], cwd=tmp_path, capture_output=True,
        text=True, env=dict(os.environ, PYTHONPATH=str(tmp_path)),
    )  # fmt: skip
    assert reply.returncode == 0, reply.stdout[-3000:]
    assert f'{len(FOUND)} passed' in reply.stdout
