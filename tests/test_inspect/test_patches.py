import runpy
import sys

import cv2
import numpy as np
import pytest
import torch
from helpers import ROOT
from matplotlib.backends.backend_agg import FigureCanvasAgg
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from kd_plugins.inspect.compare import load
from kd_plugins.inspect.compare.drawing import draw_patches
from kd_plugins.inspect.compare.loading import batch_of
from kd_plugins.inspect.compare.patches import Patches, look

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
    def run(tool, *arguments):
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, arguments)])
        runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')

    return run


def columns(path, number):
    """How colourful each column of pictures is, left to right."""
    image = cv2.imread(str(path)).astype(int)
    coloured = (image.max(axis=2) - image.min(axis=2)) > 40
    return [int(part.sum()) for part in np.array_split(coloured, number, axis=1)]


@pytest.mark.parametrize('tool', [('compare.py', '--view', 'patches'), ('plot_dense.py',)])
def test_draws_what_both_networks_say_and_the_targets(trained, draw, tmp_path, tool):
    teacher, student = trained
    out = tmp_path / 'plots/dense.png'
    options = ('--cfg-options', f'model.teacher_ckpt={teacher}', '--out', out)
    name, *view = tool
    draw(name, *view, CSKD, student, '--images', 3, 250, '--moments', 0, 1, *options)
    # The picture is grey; teacher, two targets and student are coloured.
    seen = columns(out, 5)
    assert all(colourful > 5 * (seen[0] + 100) for colourful in seen[1:]), seen


@pytest.mark.parametrize(
    'arguments, says',
    [
        (('--images', 99999), '--images 99999 is neither a file nor the number of a valida'),
        (('--images', 'gone.png'), 'numbers from 0 to 718'),
        (('--moments', 1.5), 'give numbers from 0 to 1'),
    ],
)
def test_what_it_cannot_draw_is_one_sentence(arguments, says, trained, draw, tmp_path, capsys):
    teacher, student = trained
    options = ('--cfg-options', f'model.teacher_ckpt={teacher}', '--out', tmp_path / 'x.png')
    with pytest.raises(SystemExit) as caught:
        draw('compare.py', CSKD, student, '--view', 'patches', *arguments, *options)
    said = str(caught.value) + capsys.readouterr().err
    assert says in said.splitlines()[-1] and not (tmp_path / 'x.png').exists()


def test_the_columns_are_what_both_answer_at_every_position(trained):
    teacher, student = trained
    cfg = Config.fromfile(CSKD)
    cfg.model.teacher_ckpt = str(teacher)
    algorithm = load(cfg, str(student)).model
    batch = batch_of(cfg, [3, 250])
    found = look(algorithm, batch, [0.0, 1.0])
    inputs = algorithm.data_preprocessor(batch, False)['inputs']
    with torch.no_grad():
        answers = algorithm.teacher.network(inputs, mode='tensor')
    dense = found.columns['teacher, everywhere']
    # The mean over all positions is the network's answer.
    assert torch.allclose(dense.mean(dim=(2, 3)), answers, atol=1e-4)
    assert found.preds_T.tolist() == answers.argmax(1).tolist()
    # At the start the target is the teacher at every position, in the end as a whole.
    assert torch.equal(found.columns['target at 0%'], dense)
    whole = answers[:, :, None, None].expand_as(dense)
    assert torch.allclose(found.columns['target at 100%'], whole, atol=1e-4)
    assert list(found.columns)[-1] == "student's patches"


def test_a_training_without_cskd_is_one_sentence(trained):
    cfg = Config.fromfile(CSKD)
    cfg.model.teacher_ckpt = str(trained[0])
    algorithm = load(cfg, str(trained[1])).model
    del algorithm.distiller.distill_losses['loss_cskd']
    with pytest.raises(ValueError, match=r'has no kd_plugins\.CSKDLoss among model\.distiller'):
        look(algorithm, batch_of(cfg, [3]), [])


@pytest.mark.parametrize('rows', [1, 3, 5])
def test_no_title_covers_another_or_lies_outside(tmp_path, rows):
    classes = torch.arange(rows)
    dense = 9.0 * (torch.arange(10) < 3).view(1, 10, 1, 1) + torch.rand(rows, 10, 2, 2)
    columns = {f'column {i}': dense for i in range(5)}
    picture = np.zeros((8, 8, 3), np.uint8)
    names = [str(i) for i in range(10)]
    found = Patches(classes, classes, classes, columns)
    figure = draw_patches([picture] * rows, names[:rows], found, names)
    figure.savefig(tmp_path / 'a.png', dpi=150)
    # As it was drawn, and not arranged once more.
    figure.set_layout_engine('none')
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [text for axes in figure.axes for text in (axes.title, axes.xaxis.label)]
    boxes = [t.get_window_extent(canvas.get_renderer()) for t in texts if t.get_text()]
    assert len(boxes) == 2 * rows + 5
    assert max(box.y1 for box in boxes) <= figure.bbox.height
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
