import json
import subprocess
import sys

import cv2
from helpers import ROOT

TOOL = ROOT / 'tools' / 'plot_temperature.py'


def write(work_dir, name, rows):
    folder = work_dir / name / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text('\n'.join(json.dumps(row) for row in rows))


def draw(*arguments):
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def load_tool(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOL.parent))
    import plot_temperature

    return plot_temperature


def test_draws_curves_and_bands(tmp_path):
    one, each = tmp_path / 'one', tmp_path / 'each'
    write(one, '20260101', [dict(tau=15.0 - i, iter=i) for i in range(9)])
    write(each, '20260101', [dict(tau=9.0, tau_min=5.0, tau_max=12.0, iter=i) for i in range(9)])
    for name, folders in (('one', [one]), ('both', [one, each])):
        reply = draw(*folders, '--out', tmp_path / 'plots' / f'{name}.png')
        assert reply.returncode == 0, reply.stderr
    images = [cv2.imread(str(tmp_path / 'plots' / f'{name}.png')) for name in ('one', 'both')]
    assert images[0].shape == images[1].shape == (600, 900, 3)
    # A coloured pixel is neither grey nor white: the band covers a tenth of the picture.
    coloured = [((i.max(axis=2).astype(int) - i.min(axis=2)) > 20).mean() for i in images]
    assert 0.0005 < coloured[0] < 0.02 < 0.1 < coloured[1]


def test_later_logs_replace_what_they_repeat(tmp_path, monkeypatch):
    write(tmp_path, '20260101', [dict(tau=1.0, iter=1), dict(tau=2.0, iter=2), dict(acc=1, step=1)])
    write(tmp_path, '20260102', [{'tau': 7.0, 'iter': 2, 'tau.kd_max': 3.0, 'taurus': 1.0}])
    curves = load_tool(monkeypatch).read_temperatures(tmp_path)
    assert curves == {'tau': {1: 1.0, 2: 7.0}, 'tau.kd_max': {2: 3.0}}


def test_directory_without_temperatures_is_refused(tmp_path):
    write(tmp_path, '20260101', [dict(loss=1.0, iter=1)])
    reply = draw(tmp_path)
    assert reply.returncode == 1
    assert 'holds no logged temperature (1 logs read)' in reply.stderr
    assert len(reply.stderr.strip().splitlines()) == 1
