"""Results of other data under the same names are not taken for results of one."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.own_boxes import CLASSES, coco_folder
from mmdet.datasets import CocoDataset
from mmengine.dataset import RepeatDataset
from mmengine.registry import DefaultScope
from mmpretrain.datasets import CustomDataset
from PIL import Image
from test_run import digits, interrupt_at

from kd_plugins.datasets import Digits
from kd_plugins.experiments import run as running
from kd_plugins.experiments.data import data_hash, other_data
from kd_plugins.experiments.results import Result, read_json
from kd_plugins.experiments.run import run_once


def picture(path, seed=0, side=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def folders(root):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return data_hash(CustomDataset(data_root=str(root), data_prefix='', pipeline=()))


def test_a_folder_counts_by_names_classes_and_sizes_of_files(tmp_path):
    root = tmp_path / 'own'
    for i in range(4):
        picture(root / 'ab'[i % 2] / f'{i}.png', i)
    before = folders(root)
    assert folders(root) == before and len(before) == 16
    found = {before}
    picture(root / 'a/5.png')
    found.add(folders(root))
    (root / 'a/5.png').rename(root / 'b/5.png')
    found.add(folders(root))
    picture(root / 'b/5.png', side=16)
    found.add(folders(root))
    assert len(found) == 4
    (root / 'b/5.png').unlink()
    assert folders(root) == before


@pytest.mark.parametrize('key, value', [('bbox', [1, 2, 30, 40]), ('category_id', 3),
                                        ('iscrowd', 1)])  # fmt: skip
def test_boxes_count(tmp_path, key, value):
    root = coco_folder(tmp_path / 'own', train=2, val=1)
    path = root / 'annotations/train.json'

    def hashed():
        prefix = dict(img=f'{root}/train/')
        return data_hash(CocoDataset(str(path), dict(classes=CLASSES), data_prefix=prefix))

    content, before = json.loads(path.read_text()), hashed()
    assert content['annotations'][0][key] != value
    content['annotations'][0][key] = value
    path.write_text(json.dumps(content))
    assert hashed() != before


def test_what_repeats_a_data_set_is_that_one(monkeypatch):
    plain = Digits('test', indices=7)
    assert data_hash(RepeatDataset(plain, 3)) == data_hash(plain)
    assert data_hash(Digits('test', indices=8)) != data_hash(plain)
    assert data_hash(Digits('train', indices=7)) != data_hash(plain)
    # Of others the number is all there is.
    assert data_hash([1, 2]) == data_hash([3, 4]) != data_hash([1])
    assert data_hash(iter('ab')) == data_hash(iter('c'))


def relabel(patch):
    load = Digits.load_data_list
    patch.setattr(
        Digits,
        'load_data_list',
        lambda self: [dict(one, gt_label=9 - one['gt_label']) for one in load(self)],
    )


def test_a_training_does_not_go_on_with_other_data(tmp_path, monkeypatch):
    run = digits(tmp_path)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            run_once(run)
    noted = read_json(Path(run.work_dir) / running.STARTED)['data']
    assert sorted(noted) == ['train', 'val'] and noted['train'] != noted['val']
    with monkeypatch.context() as patch:
        relabel(patch)
        with pytest.raises(RuntimeError, match='the train set has other pictures or labels'):
            run_once(run)
    result = run_once(run)
    assert result.data == noted
    # Anew it takes what is there.
    shutil.rmtree(run.work_dir)
    with monkeypatch.context() as patch:
        relabel(patch)
        other = run_once(run)
    assert other.data != noted
    said = other_data({'seed 0': result, 'seed 1': other})
    assert said.startswith('seed 0 and seed 1 are of other data: the train set')
    assert other_data({'seed 0': result, 'seed 1': result}) is None


def test_results_of_before_there_was_a_record_say_nothing():
    first = Result('hash', [1], [60.0], [], 7, 1.0)
    second = Result('hash', [1], [60.0], [], 7, 1.0, data=dict(val='a'))
    third = Result('hash', [1], [60.0], [], 7, 1.0, data=dict(train='x', val='b'))
    assert other_data(dict(a=first, b=second)) is None
    assert 'b and c are of other data: the val set' in other_data(dict(a=first, b=second, c=third))
