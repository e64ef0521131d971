"""Scenes of digits: as said in the annotations, once, and from separate scans."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from helpers import ROOT
from sklearn.datasets import load_digits

from kd_plugins.datasets import digit_scenes
from kd_plugins.datasets.digit_scenes import make_scenes
from kd_plugins.datasets.digits import Digits
from kd_plugins.datasets.scene_drawing import SceneSettings, draw_scene

FEW = SceneSettings(train=6, val=3)
PLAIN = SceneSettings(clutter=0, noise=0.0, overlap=0.0)


def scans(split='train'):
    samples = Digits(split).load_data_list()
    return np.stack([s['img'][..., 0] for s in samples]), np.array([s['gt_label'] for s in samples])


def scenes(settings, number, split='train', seed=0):
    images, labels = scans(split)
    return [
        draw_scene(images, labels, settings, np.random.default_rng([seed, i]))
        for i in range(number)
    ]


def read(root, split):
    return json.loads((root / 'annotations' / f'{split}.json').read_text())


def test_upstream_reads_and_scores_what_was_written(tmp_path):
    """A detector that repeats the annotations has an average precision of 1."""
    from mmdet.evaluation import CocoMetric
    from mmengine.registry import DATASETS, init_default_scope

    root = make_scenes(tmp_path / 'scenes', FEW)
    init_default_scope('mmdet')
    dataset = DATASETS.build(
        dict(
            type='CocoDataset',
            data_root=str(root),
            metainfo=dict(classes=tuple('0123456789')),
            ann_file='annotations/val.json',
            data_prefix=dict(img='val/'),
            test_mode=True,
            pipeline=[],
        )
    )
    assert len(dataset) == 3
    metric = CocoMetric(str(root / 'annotations/val.json'))
    metric.dataset_meta = dataset.metainfo
    annotated = read(root, 'val')['annotations']
    for i in range(3):
        sample = dataset[i]
        picture = cv2.imread(sample['img_path'])
        assert picture.shape == (128, 128, 3)
        boxes = np.array([o['bbox'] for o in sample['instances']], dtype=float).reshape(-1, 4)
        labels = np.array([o['bbox_label'] for o in sample['instances']], dtype=int)
        mine = [a for a in annotated if a['image_id'] == sample['img_id']]
        assert [a['category_id'] - 1 for a in mine] == labels.tolist()
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= 128).all()
        found = dict(
            bboxes=_tensor(boxes), labels=_tensor(labels), scores=_tensor(labels * 0 + 0.9)
        )
        metric.process({}, [dict(pred_instances=found, img_id=i, ori_shape=(128, 128))])
    assert metric.evaluate(3)['coco/bbox_mAP'] == 1.0


def _tensor(array):
    import torch

    return torch.from_numpy(np.asarray(array))


def test_boxes_are_those_of_the_ink():
    for scene in scenes(PLAIN, 20):
        # Where nothing is written, colours change slowly; ink stands out of its surroundings.
        edges = np.abs(np.diff(scene.picture.astype(int), axis=1)).sum(-1) > 40
        outside = np.ones(edges.shape, bool)
        for x, y, w, h in scene.boxes:
            inside = edges[max(y - 1, 0) : y + h + 1, max(x - 2, 0) : x + w + 1]
            rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
            assert rows.size and columns.size
            assert rows[-1] - rows[0] >= 0.8 * h - 3 and columns[-1] - columns[0] >= 0.6 * w - 3
            outside[max(y - 2, 0) : y + h + 2, max(x - 3, 0) : x + w + 3] = False
        assert not (edges & outside).any()


def test_labels_belong_to_the_ink():
    """Scans are recognised by what they cover, at their own size and place."""
    images, labels = scans()
    settings = SceneSettings(digits=(1, 1), side=(32, 32), clutter=0, noise=0.0)
    right = 0
    for seed in range(60):
        scene = draw_scene(images, labels, settings, np.random.default_rng(seed))
        ((x, y, w, h),) = scene.boxes
        patch = scene.picture[y : y + h, x : x + w].astype(np.float32)
        border = np.concatenate([scene.picture[y, x : x + w], scene.picture[y + h - 1, x : x + w]])
        ink = np.abs(patch - np.median(border, axis=0)).sum(-1)
        ink = cv2.resize(ink / ink.max(), (8, 8), interpolation=cv2.INTER_AREA).ravel()
        known = []
        for image in images:
            rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
            cut = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)
            known.append(cv2.resize(cut / 255, (8, 8), interpolation=cv2.INTER_AREA).ravel())
        likeness = [np.corrcoef(ink, k)[0, 1] for k in known]
        right += labels[int(np.argmax(likeness))] == scene.labels[0]
    assert right > 45  # chance gives 6


def test_settings_are_kept():
    settings = SceneSettings(digits=(3, 5), side=(20, 30), size=200, overlap=0.1)
    numbers = set()
    for scene in scenes(settings, 40):
        assert scene.picture.shape == (200, 200, 3) and scene.picture.dtype == np.uint8
        numbers.add(len(scene.labels))
        boxes = scene.boxes
        # Tilted by up to 12 degrees, a digit may be a little higher than it was written.
        assert (boxes[:, 3] <= 40).all() and (boxes[:, 3] >= 14).all()
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                low = np.maximum(a[:2], b[:2])
                high = np.minimum(a[:2] + a[2:], b[:2] + b[2:])
                shared = np.prod(np.maximum(high - low, 0))
                assert shared <= 0.1 * min(a[2] * a[3], b[2] * b[3])
    assert numbers == {3, 4, 5}
    assert {len(s.labels) for s in scenes(SceneSettings(digits=(0, 0)), 3)} == {0}
    found = np.concatenate([scene.labels for scene in scenes(SceneSettings(), 60)])
    assert set(found) == set(range(10))


def test_training_and_validation_share_no_scan(tmp_path, monkeypatch):
    seen = {}

    def note(images, labels, settings, random):
        seen.setdefault(len(images), set()).update(image.tobytes() for image in images)
        return draw_scene(images, labels, settings, random)

    monkeypatch.setattr(digit_scenes, 'draw_scene', note)
    make_scenes(tmp_path / 'scenes', FEW)
    train, val = seen[1078], seen[719]
    assert not train & val
    everything = np.round(load_digits().images * 255 / 16).astype(np.uint8)
    assert train | val == {image.tobytes() for image in everything}


def test_the_same_settings_give_the_same_scenes_and_more_begin_with_fewer(tmp_path):
    a = make_scenes(tmp_path / 'a', FEW)
    b = make_scenes(tmp_path / 'b', SceneSettings(train=8, val=3))
    c = make_scenes(tmp_path / 'c', SceneSettings(train=6, val=3, seed=1))

    def pictures(root, split):
        return [cv2.imread(str(path)).tobytes() for path in sorted((root / split).iterdir())]

    for split in ('train', 'val'):
        ours = pictures(a, split)
        assert len(set(ours)) == len(ours) == len(read(a, split)['images'])
        assert pictures(b, split)[: len(ours)] == ours
        assert not set(pictures(c, split)) & set(ours)
    few, more = (read(root, 'train')['annotations'] for root in (a, b))
    assert more[: len(few)] == few and len(more) > len(few)
    assert not set(pictures(a, 'train')) & set(pictures(a, 'val'))


def test_is_written_once_and_never_half(tmp_path, monkeypatch):
    root = tmp_path / 'deep' / 'scenes'
    calls = []

    def interrupt():
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_scenes(root, FEW, interrupt)
    assert list(root.parent.iterdir()) == []
    make_scenes(root, FEW)
    times = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    assert len([path for path in times if path.suffix == '.png']) == 9
    monkeypatch.setattr(digit_scenes, 'draw_scene', lambda *_: pytest.fail('drew again'))
    assert make_scenes(root, FEW) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob('*')} == times
    assert list(root.parent.iterdir()) == [root]


def test_two_at_a_time_end_in_one(tmp_path):
    root = tmp_path / 'scenes'
    inner = []

    def other():
        # Another process comes in between and is done first.
        if not inner:
            inner.append(1)
            make_scenes(root, FEW)

    make_scenes(root, FEW, other)
    assert [path.name for path in tmp_path.iterdir()] == ['scenes']
    assert len(list((root / 'train').iterdir())) == 6


def test_other_content_is_refused_and_kept(tmp_path):
    root = make_scenes(tmp_path / 'scenes', FEW)
    with pytest.raises(FileExistsError, match=r'with seed=0 \(not 2\), val=3 \(not 4\): name'):
        make_scenes(root, SceneSettings(train=6, val=4, seed=2))
    mine = tmp_path / 'mine'
    mine.mkdir()
    make_scenes(mine, FEW)  # an empty folder is free
    other = tmp_path / 'other'
    other.mkdir()
    (other / 'thesis.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='it has no scenes.json'):
        make_scenes(other, FEW)
    assert [path.name for path in other.iterdir()] == ['thesis.txt']


@pytest.mark.parametrize(
    'setting, says',
    [
        (dict(train=0), 'train=0 cannot be made: give a number of scenes'),
        (dict(digits=(3, 2)), r'digits=\(3, 2\).*fewest <= most'),
        (dict(side=(4, 20)), r'side=\(4, 20\).*8 <= smallest'),
        (dict(size=40), r'size=40.*more than side=\(16, 48\)'),
        (dict(overlap=1.5), 'overlap=1.5.*share from 0 to 1'),
    ],
)
def test_impossible_settings_are_named(setting, says):
    with pytest.raises(ValueError, match=says):
        SceneSettings(**setting)


def test_the_tool_writes_reuses_and_refuses(tmp_path):
    command = [sys.executable, str(ROOT / 'tools/make_digit_scenes.py'), '--train', '3', '--val']
    options = ['--digits', '2', '2', '--out', 'made']

    def run(*arguments):
        return subprocess.run(
            [*command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    first = run('2', *options)
    assert first.returncode == 0, first.stderr
    assert 'made: 3 training and 2 validation scenes' in first.stdout
    assert len(read(tmp_path / 'made', 'train')['annotations']) == 6
    reply = run('4', *options)
    assert reply.returncode == 1
    assert 'val=2 (not 4)' in reply.stderr and 'Traceback' not in reply.stderr
