import importlib.util
import sys

import cv2
import numpy as np
import pytest
import torch
from helpers import ROOT
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

CSKD = ROOT / 'configs/cskd/cskd_digits.py'


@pytest.fixture
def trained(tmp_path):
    """A teacher and a student with classifiers that answer differently at every place."""
    cfg = Config.fromfile(CSKD)
    init_default_scope('mmpretrain')
    paths = []
    for name, network in (('teacher', cfg.model.teacher), ('student', cfg.model.architecture)):
        model = MODELS.build(network)
        for parameter in model.head.parameters():
            torch.nn.init.normal_(parameter, std=2.0)
        paths.append(tmp_path / f'{name}.pth')
        torch.save(model.state_dict(), paths[-1])
    return paths


@pytest.fixture
def draw(monkeypatch):
    spec = importlib.util.spec_from_file_location('plot_dense', ROOT / 'tools/plot_dense.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['plot_dense.py', *map(str, arguments)])
        tool.main()

    return run


def columns(path, number):
    """How colourful each column of pictures is, left to right."""
    image = cv2.imread(str(path)).astype(int)
    coloured = (image.max(axis=2) - image.min(axis=2)) > 40
    return [int(part.sum()) for part in np.array_split(coloured, number, axis=1)]


def test_draws_what_both_networks_say_and_the_targets(trained, draw, tmp_path):
    teacher, student = trained
    out = tmp_path / 'plots/dense.png'
    options = ('--cfg-options', f'model.teacher_ckpt={teacher}', '--out', out)
    draw(CSKD, student, '--images', 3, 250, '--moments', 0, 1, *options)
    # The picture is grey; teacher, two targets and student are coloured.
    seen = columns(out, 5)
    assert all(colourful > 5 * (seen[0] + 100) for colourful in seen[1:]), seen


@pytest.mark.parametrize(
    'config, arguments, says',
    [
        (CSKD, ('--images', 99999), '--images [99999] are not all among the 719 validation'),
        (ROOT / 'configs/kd/kd_digits.py', (), 'has no kd_plugins.CSKDLoss among model.distiller'),
        (CSKD, ('--moments', 1.5), 'give numbers from 0 to 1'),
    ],
)
def test_what_it_cannot_draw_is_one_sentence(
    config, arguments, says, trained, draw, tmp_path, capsys
):
    teacher, student = trained
    options = ('--cfg-options', f'model.teacher_ckpt={teacher}', '--out', tmp_path / 'x.png')
    with pytest.raises(SystemExit) as caught:
        draw(config, student, *arguments, *options)
    said = str(caught.value) + capsys.readouterr().err
    assert says in said.splitlines()[-1] and not (tmp_path / 'x.png').exists()
