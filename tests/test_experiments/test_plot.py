import html.parser
import importlib
import json
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from helpers import ROOT

from kd_plugins.experiments import plot
from kd_plugins.experiments.logs import Training, read_training, short_names


def write(work_dir, *starts):
    for number, rows in enumerate(starts):
        folder = work_dir / f'2026010{number}' / 'vis_data'
        folder.mkdir(parents=True)
        (folder / 'scalars.json').write_text('\n'.join(json.dumps(row) for row in rows))
    return work_dir


def training(name='kd', **train):
    curves = {k: {i + 1: v for i, v in enumerate(values)} for k, values in train.items()}
    return Training(name, curves)


def test_later_logs_replace_what_they_repeat(tmp_path):
    write(
        tmp_path / 'kd',
        [dict(tau=1.0, iter=1), dict(tau=2.0, iter=2), {'accuracy/top1': 50.0, 'step': 1}],
        [{'tau': 7.0, 'iter': 2, 'tau.kd_max': 3.0, 'note': 'text'}, {'other': 1.0}],
    )
    read = read_training(tmp_path / 'kd')
    assert read.name == 'kd'
    assert {k: v for k, v in read.train.items() if 'tau' in k} == {
        'tau': {1: 1.0, 2: 7.0},
        'tau.kd_max': {2: 3.0},
    }
    assert read.val['accuracy/top1'] == {1: 50.0}
    assert 'note' not in read.train and 'other' not in read.train and 'other' not in read.val


def test_a_student_alone_is_compared_by_its_whole_loss(tmp_path):
    alone = write(tmp_path / 'alone', [dict(loss=2.0, iter=1), dict(loss=1.0, iter=2)])
    theirs = write(tmp_path / 'razor', [{'loss': 5.0, 'distill.loss_kl': 3.0, 'iter': 1}])
    ours = write(tmp_path / 'kd', [dict(loss=5.0, task_loss=2.0, distill_loss=3.0, iter=1)])
    assert read_training(alone).train['task_loss'] == {1: 2.0, 2: 1.0}
    assert 'task_loss' not in read_training(theirs).train
    assert read_training(ours).train['task_loss'] == {1: 2.0}


def test_a_directory_without_logs_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'holds no \*/vis_data/scalars.json: give the'):
        read_training(tmp_path)


def test_directories_that_end_alike_get_two_parts(tmp_path):
    one, two = tmp_path / 'kd' / '0', tmp_path / 'dkd' / '0'
    assert short_names([one, two]) == {one: 'kd/0', two: 'dkd/0'}
    assert short_names([one]) == {one: '0'}


def test_panels_are_those_that_were_logged():
    one = training(task_loss=[2.0, 1.0], distill_loss=[3.0, 2.0], tau=[9.0, 8.0], lr=[0.1, 0.1])
    two = training('alone', task_loss=[2.0], tau_min=[1.0])
    one.train['distill.loss_kd'] = {1: 3.0, 2: 2.0}
    titles = [panel.title for panel, _ in plot.panels_of([one, two])]
    assert titles == ['task loss', 'distillation loss', 'temperature', 'learning rate']
    one.train['distill.loss_sp'] = {1: 3.0}
    one.val['coco/bbox_mAP'] = {1: 0.3}
    titles = [panel.title for panel, _ in plot.panels_of([one, two])]
    assert 'each term' in titles and titles[0] == 'validation'
    assert plot.panels_of([training('alone', epoch=[1.0])]) == []


def test_lines_are_what_was_logged_and_bands_span_the_ends():
    one = training('kd', tau=[9.0, 8.0, 7.0], tau_min=[5.0, 4.0, 3.0], tau_max=[10.0, 11.0, 12.0])
    two = training('ctkd', tau=[1.0, 2.0, 4.0])
    (axes,) = plot.draw([one, two]).axes[:1]
    lines = [tuple(map(tuple, line.get_xydata().tolist())) for line in axes.lines]
    assert lines == [((1, 9), (2, 8), (3, 7)), ((1, 1), (2, 2), (3, 4))]
    assert axes.lines[0].get_color() != axes.lines[1].get_color()
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices
    assert {(2.0, 4.0), (2.0, 11.0), (3.0, 3.0), (3.0, 12.0)} <= set(map(tuple, corners.tolist()))


@pytest.mark.parametrize('values, scale', [([2.0, 0.5], 'log'), ([2.0, 0.0], 'linear')])
def test_losses_are_logarithmic_where_they_can_be(values, scale):
    (axes,) = plot.draw([training(task_loss=values)]).axes
    assert axes.get_yscale() == scale


class Page(html.parser.HTMLParser):
    """Collects what a page refers to, its ids and its cells."""

    def __init__(self, text):
        super().__init__()
        self.links, self.ids, self.cells, self.inside = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for key, value in attributes:
            if key in ('href', 'src', 'xlink:href'):
                self.links.append(value)
            if key == 'id':
                self.ids.append(value)
        self.inside = tag == 'td' or (self.inside and tag in ('label', 'input', 'span'))

    def handle_data(self, data):
        if self.inside and data.strip() and data.strip() != '▬':
            self.cells.append(data.strip())


def test_the_page_needs_nothing_else_and_tells_the_last_values():
    one = training('a<b', task_loss=[2.0, 1.25], distill_loss=[3.0, 2.0], agreement=[10.0, 88.0])
    one.val['accuracy/top1'] = {1: 97.0, 5: 91.5}
    text = plot.page([one, training('alone', task_loss=[2.0, 1.0])])
    page = Page(text)
    assert 'a<b' not in text and 'a&lt;b' in text
    assert page.cells[:6] == ['a<b', '91.5', '97', '1.25', '2', '88']
    assert all(link.startswith('#') for link in page.links)
    assert len(page.ids) == len(set(page.ids)) > 50
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert set(re.findall(r'url\(#([^)]+)\)', text)) <= set(page.ids)
    # A box for each training switches what carries its class.
    assert re.findall(r'data-run="(run\d)"', text) == ['run0', 'run1']
    assert text.count('class="run0"') == 4 and text.count('class="run1"') == 1


def command(*arguments):
    line = [sys.executable, str(ROOT / 'tools/plot.py'), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True)


def test_from_the_command_line(tmp_path):
    rows = [dict(task_loss=2.0 / (i + 1), distill_loss=5.0 / (i + 1), iter=i) for i in range(9)]
    write(tmp_path / '$k_{d$', rows)
    (log,) = (tmp_path / '$k_{d$').glob('*/vis_data/scalars.json')
    log.write_text(log.read_text()[:-3])
    reply = command(tmp_path / '$k_{d$', '--out', tmp_path / 'plots' / 'v1.0')
    assert reply.returncode == 0, reply.stderr
    assert 'scalars.json: passed over a line that is cut off' in reply.stdout + reply.stderr
    image = cv2.imread(str(tmp_path / 'plots' / 'v1.0.png')).astype(int)
    assert ((image.max(axis=2) - image.min(axis=2)) > 60).sum() > 1000
    assert np.all(image[0, 0] == 255)
    assert (tmp_path / 'plots' / 'v1.0.html').read_text().count('<svg') == 2


def test_what_cannot_be_drawn_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    tool = importlib.import_module('plot')
    write(tmp_path / 'empty', [dict(epoch=1, iter=1)])
    for folder, said in ((tmp_path / 'empty', 'nothing was logged'), (tmp_path, 'holds no')):
        monkeypatch.setattr(sys, 'argv', ['plot.py', str(folder)])
        with pytest.raises(SystemExit, match=said) as raised:
            tool.main()
        assert '\n' not in raised.value.code


def test_a_log_that_a_kill_cut_off_is_read_as_far_as_it_is_whole(tmp_path):
    work_dir = write(tmp_path / 'kd', [dict(tau=1.0, iter=1), dict(tau=2.0, iter=2)])
    (log,) = work_dir.glob('*/vis_data/scalars.json')
    whole = log.read_text()
    # Cut off anywhere in the last line, and gone on with behind it, as after a resume.
    for cut in range(1, len(whole.split('\n')[1])):
        torn = whole[:-cut]
        log.write_text(torn)
        assert read_training(work_dir).train['tau'] in ({1: 1.0}, {1: 1.0, 2: 2.0})
        log.write_text(torn + json.dumps(dict(tau=3.0, iter=3)) + '\n{"tau": 4.0, "iter": 4}\n')
        assert read_training(work_dir).train['tau'] == {1: 1.0, 4: 4.0}
    # What is left may be a number of its own, or zeros.
    log.write_bytes(whole.encode() + b'\n12\n\0\0\0\0\n"iter"\n\xff\xfe{\n')
    assert read_training(work_dir).train['tau'] == {1: 1.0, 2: 2.0}


def test_values_that_are_not_finite_stay_and_are_drawn_as_gaps(tmp_path):
    rows = [dict(task_loss=v, iter=i + 1) for i, v in enumerate((2.0, float('nan'), 1.0))]
    rows += [{'accuracy/top1': v, 'step': i} for i, v in ((1, 50.0), (2, float('nan')))]
    rows += [dict(task_loss=v, iter=4 + i) for i, v in enumerate((float('inf'), 0.5))]
    training = read_training(write(tmp_path / 'kd', rows))
    figure = plot.draw([training])
    figure.canvas.draw()
    axes = next(a for a in figure.axes if a.get_title(loc='left') == 'task loss')
    assert axes.get_yscale() == 'log' and 0.3 < axes.get_ylim()[0] < axes.get_ylim()[1] < 3
    assert np.isfinite(axes.lines[0].get_ydata()).tolist() == [True, False, True, False, True]
    # The last value is told as it is; the best is one that was reached.
    assert Page(plot.page([training])).cells[:4] == ['kd', 'nan', '50', '0.5']
    log = [dict(task_loss=float('nan'), iter=1)]
    plot.draw([read_training(write(tmp_path / 'lost', log))]).canvas.draw()


@pytest.mark.parametrize('name', ['a$b$', '$', r'\frac$x_{', '_kd', 'url(#id="run0")&<b>'])
def test_names_are_shown_as_they_are(name):
    one = training(name, task_loss=[2.0, 1.0], tckd=[1.0, 2.0], nckd=[2.0, 3.0])
    two = training('other', task_loss=[2.0, 1.0], tckd=[1.0, 2.0], nckd=[2.0, 3.0])
    figure = plot.draw([one, two])
    figure.canvas.draw()
    (legend,) = figure.legends
    shown = [text.get_text().replace(r'\$', '$').strip() for text in legend.get_texts()]
    assert shown == [name, 'other']
    (inner,) = (axes.get_legend() for axes in figure.axes if axes.get_legend())
    shown = [text.get_text().replace(r'\$', '$').strip() for text in inner.get_texts()]
    assert sorted(shown) == sorted(
        f'{t} {part}' for t in (name, 'other') for part in ('tckd', 'nckd')
    )
    # And so are those of the page, in the table and in the pictures.
    page = plot.page([one, two])
    words = Words(page).words
    assert name in words and f'{name} tckd' in words
    assert '<b>' not in page


class Words(html.parser.HTMLParser):
    """Collects the texts of a page."""

    def __init__(self, text):
        super().__init__()
        self.words = []
        self.feed(text)

    def handle_data(self, data):
        self.words.append(data.strip())


def test_directories_get_as_many_parts_as_tell_them_apart(tmp_path):
    one, two = tmp_path / 'a' / 'kd' / '0', tmp_path / 'b' / 'kd' / '0'
    assert short_names([one, two]) == {one: 'a/kd/0', two: 'b/kd/0'}
