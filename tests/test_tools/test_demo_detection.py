"""What the detection demo prints and draws, without its trainings."""

import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from helpers import ROOT
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from kd_plugins.datasets.digit_scenes import make_scenes
from kd_plugins.datasets.scene_drawing import SceneSettings
from kd_plugins.experiments.results import Result, Run


@pytest.fixture
def tool(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    monkeypatch.chdir(tmp_path)
    import demo_detection

    return demo_detection


def result(ap, ap50=0.5, ap75=0.25, parameters=10):
    metrics = {'coco/bbox_mAP': [0.0, ap], 'coco/bbox_mAP_50': [0.0, ap50]}
    metrics['coco/bbox_mAP_75'] = [0.0, ap75]
    return Result('hash', [1, 2], [0.0, 100 * ap], [], parameters, 60.0, metrics)


def rows(table):
    return {
        name: [column._cells[i] for column in table.columns[1:]]
        for i, name in enumerate(table.columns[0]._cells)
    }


def test_the_table_says_what_was_measured(tool):
    group = tool.GROUPS['gfl']
    results = {
        'GFL student alone': [result(0.30), result(0.32)],
        'LD': [result(0.31), result(0.33)],
        'BCKD': [result(0.40, 0.625), result(0.42, 0.5)],
    }
    table = rows(tool.summarise(group, results, result(0.6, parameters=12345)))
    assert table['teacher'] == ['60.00', '50.00', '25.00', '', '12,345', '60']
    assert table['student alone'][0] == '31.00 ± 1.41' and table['student alone'][3] == ''
    assert table['LD'][3] == '+1.00 ?'
    assert table['BCKD'][:2] == ['41.00 ± 1.41', '56.25 ± 8.84']
    assert table['BCKD'][3] == '+10.00'


def test_wrong_boxes_are_drawn_apart(tool):
    truth = [dict(bbox=[0, 0, 10, 10], bbox_label=3), dict(bbox=[20, 20, 30, 30], bbox_label=5)]
    found = [
        ([0, 0, 10, 10], 3, True),
        ([0, 0, 10, 5.2], 3, True),  # an overlap of 0.52
        ([0, 0, 10, 4.8], 3, False),
        ([0, 0, 10, 10], 5, False),  # the place of one digit, the label of the other
        ([21, 20, 31, 30], 5, True),
    ]
    boxes, labels = np.array([box for box, *_ in found]), np.array([n for _, n, _ in found])
    axis = plt.figure().subplots()
    tool.show(axis, np.zeros((40, 40, 3)), boxes, labels, truth)
    assert [p.get_linestyle() == '-' for p in axis.patches] == [right for *_, right in found]
    assert [p.get_edgecolor() == (1, 1, 1, 1) for p in axis.patches] == [r for *_, r in found]
    assert [p.get_bbox().extents.tolist() for p in axis.patches] == boxes.tolist()
    assert [text.get_text() for text in axis.texts] == ['3', '3', '3', '5', '5']


#: What makes a detector so sure of everything that boxes are drawn.
SURE = {'gfl': ('bbox_head.gfl_cls.bias', [1.0] * 10),
        'faster-rcnn': ('roi_head.bbox_head.fc_cls.bias', [3.0] * 10 + [0.0])}  # fmt: skip


@pytest.mark.parametrize('kind', SURE)
def test_the_figure_shows_every_detector_from_its_checkpoint(kind, tool, tmp_path, monkeypatch):
    make_scenes('data/digit_scenes', SceneSettings(train=1, val=3))
    init_default_scope('mmdet')
    group, runs = tool.GROUPS[kind], {}
    # Ten classes that are equally sure have a score of 0.1 each.
    monkeypatch.setattr(tool, 'SCORE', 0.09)
    for name in ('teacher', 'student alone', 'taught'):
        config = group.teacher if name == 'teacher' else group.student
        run = Run(name, 'taught.py', 0, f'work/{name}')
        run = group.teacher_run if name == 'teacher' else run
        model = MODELS.build(Config.fromfile(tool.CONFIGS / config).model)
        where, values = SURE[kind]
        model.get_parameter(where).data = torch.tensor(values)
        folder = tmp_path / run.work_dir
        folder.mkdir(parents=True)
        torch.save(dict(state_dict=model.state_dict(), meta={}), folder / 'epoch_1.pth')
        (folder / 'last_checkpoint').write_text(str(folder / 'epoch_1.pth'))
        runs[name] = run
    drawn = []
    monkeypatch.setattr(tool, 'SHOWN', (0, 2))
    show = tool.show
    monkeypatch.setattr(tool, 'show', lambda *args: (drawn.append(len(args[2])), show(*args)))
    tool.draw(group, runs, tmp_path / 'figure' / 'scenes.png')
    assert (tmp_path / 'figure' / 'scenes.png').stat().st_size > 10_000
    assert len(drawn) == 8 and all(number > 0 for number in drawn[2:])


def test_runs_reuse_each_teacher_and_keep_seeds_apart(tool, tmp_path, monkeypatch, capsys):
    trained = []

    def train(runs, jobs, log, console, later):
        for each in (runs, later):
            trained.append([(run.name, run.seed, run.work_dir) for run in each])
        return {run: result(0.5) for run in [*runs, *later]}

    monkeypatch.setattr(tool, 'train', train)

    def draw(group, runs, path):
        print('loading annotations into memory...')
        trained.append([group.row(name) for name in runs])

    monkeypatch.setattr(tool, 'draw', draw)
    monkeypatch.setattr(tool, 'make_scenes', lambda root: trained.append(str(root)))
    monkeypatch.setattr(sys, 'argv', ['demo_detection.py', '--seeds', '4', '7'])
    tool.main()
    data, first, second, dense, two_stage = trained
    assert data == 'data/digit_scenes'
    teachers = {'GFL teacher', 'Faster R-CNN teacher'}
    alone = {'GFL student alone', 'Faster R-CNN student alone'}
    assert {name for name, *_ in first[:2]} == teachers and len(first) == 6
    assert {(name, seed) for name, seed, _ in first[2:]} == {(n, s) for n in alone for s in (4, 7)}
    assert sorted((name, seed) for name, seed, _ in second) == [
        (name, seed)
        for name in ('BCKD', 'BCKD, stored teacher', 'DKD', 'LD', 'ReviewDKD')
        for seed in (4, 7)
    ]
    folders = [folder for _, _, folder in first + second]
    assert len(set(folders)) == len(folders)
    assert dense == ['teacher', 'student alone', 'LD', 'BCKD', 'BCKD, stored teacher']
    assert two_stage == ['teacher', 'student alone', 'DKD', 'ReviewDKD']
    printed = capsys.readouterr().out
    assert 'GFL on digit scenes, COCO box AP' in printed and 'loading annotations' not in printed
    assert 'Faster R-CNN on digit scenes, COCO box AP' in printed
    # Students look for the teacher where its own run leaves it.
    for group in tool.GROUPS.values():
        last = Config.fromfile(group.teacher_run.config).train_cfg.max_epochs
        for name in group.taught.values():
            cfg = Config.fromfile(tool.CONFIGS / name)
            assert cfg.model.teacher_ckpt == f'{group.teacher_run.work_dir}/epoch_{last}.pth'


def test_one_kind_of_detector_alone(tool, monkeypatch):
    names = []

    def train(runs, jobs, log, console, later):
        names.extend(run.name for run in [*runs, *later])
        return {run: result(0.5) for run in [*runs, *later]}

    monkeypatch.setattr(tool, 'train', train)
    monkeypatch.setattr(tool, 'draw', lambda *_: None)
    monkeypatch.setattr(tool, 'make_scenes', lambda root: None)
    line = ['demo_detection.py', '--seeds', '0', '--detectors', 'faster-rcnn']
    monkeypatch.setattr(sys, 'argv', line)
    tool.main()
    alone = ['Faster R-CNN teacher', 'Faster R-CNN student alone']
    assert names == [*alone, 'DKD', 'ReviewDKD']
