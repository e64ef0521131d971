import json
import subprocess
import sys

import cv2
from helpers import ROOT


def write(work_dir, rows):
    folder = work_dir / '20260101' / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text('\n'.join(json.dumps(row) for row in rows))
    return work_dir


def draw(*arguments):
    command = [sys.executable, str(ROOT / 'tools' / 'plot_losses.py'), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def colours(path):
    """Coloured pixels, neither grey nor white, of the left and the right half."""
    image = cv2.imread(str(path)).astype(int)
    assert image.shape == (600, 1350, 3)
    coloured = (image.max(axis=2) - image.min(axis=2)) > 60
    return coloured[:, :675].sum(), coloured[:, 675:].sum()


def test_draws_both_losses_of_several_trainings(tmp_path):
    rows = [dict(task_loss=2.0 / (i + 1), distill_loss=5.0 / (i + 1), iter=i) for i in range(9)]
    one = write(tmp_path / 'kd', [*rows, {'accuracy/top1': 3.0, 'step': 1}])
    two = write(tmp_path / 'dot', [dict(row, distill_loss=0.5) for row in rows])
    task_only = write(tmp_path / 'alone', [dict(task_loss=1.0 + i, iter=i) for i in range(9)])
    seen = {}
    for name, folders in (('one', [one]), ('two', [one, two]), ('alone', [task_only])):
        out = tmp_path / 'plots' / f'{name}.png'
        reply = draw(*folders, '--out', out)
        assert reply.returncode == 0, reply.stderr
        seen[name] = colours(out)
    assert all(seen['one']) and seen['two'][1] > 1.5 * seen['one'][1]
    assert seen['alone'][0] and not seen['alone'][1]


def test_directory_without_losses_is_refused(tmp_path):
    reply = draw(write(tmp_path / 'empty', [dict(loss=1.0, iter=1)]))
    assert reply.returncode == 1
    assert 'holds no task_loss or distill_loss (1 logs read): give the work' in reply.stderr
    assert len(reply.stderr.strip().splitlines()) == 1
