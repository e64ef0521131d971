"""tools/label_pictures.py: what a detector finds in pictures, as a COCO file."""

import fcntl
import json
import runpy
import sys
from unittest import mock

import cv2
import mmcv
import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.detection import detector
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from PIL import Image

from kd_plugins.datasets import labelling

CLASSES = ('ant', 'bee', 'cat')


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """A config, a checkpoint, and a folder with pictures, one of which lies on its side."""
    root = tmp_path_factory.mktemp('labelling')
    generator = np.random.default_rng(0)
    for name, shape in {'a.png': (48, 64), 'deep/b.png': (64, 40), 'deep/c.jpg': (50, 60)}.items():
        path = root / 'pictures' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), generator.integers(0, 255, (*shape, 3), dtype=np.uint8))
    lying = Image.fromarray(generator.integers(0, 255, (30, 70, 3), dtype=np.uint8))
    exif = lying.getexif()
    exif[0x0112] = 6  # turned by a quarter
    lying.save(root / 'pictures/turned.jpg', exif=exif, quality=95)
    cfg = Config(
        dict(
            default_scope='mmdet',
            model=detector('GFL', 3),
            test_dataloader=dict(
                dataset=dict(
                    type='CocoDataset',
                    metainfo=dict(classes=CLASSES),
                    pipeline=[
                        dict(type='LoadImageFromFile'),
                        dict(type='Resize', scale=(96, 96), keep_ratio=True),
                        dict(type='LoadAnnotations', with_bbox=True),
                        dict(type='PackDetInputs', meta_keys=('img_shape', 'scale_factor')),
                    ],
                )
            ),
        )
    )
    cfg.dump(root / 'config.py')
    init_default_scope('mmdet')
    torch.manual_seed(0)
    network = MODELS.build(cfg.model)
    network.init_weights()
    with torch.no_grad():
        for p in network.bbox_head.parameters():
            p.add_(torch.randn_like(p) * 0.2)
        network.bbox_head.gfl_cls.bias.zero_()
    torch.save(
        dict(state_dict=network.state_dict(), meta=dict(dataset_meta=dict(classes=CLASSES))),
        root / 'teacher.pth',
    )
    return root


def label(root, monkeypatch, capsys, *more, where='pictures', out='labels.json', config=None):
    line = [config or root / 'config.py', root / 'teacher.pth', root / where, '--out', root / out]
    monkeypatch.setattr(sys, 'argv', ['label_pictures.py', *map(str, line), *more])
    try:
        runpy.run_path(str(ROOT / 'tools/label_pictures.py'), run_name='__main__')
    except SystemExit as stopped:
        return stopped.code if isinstance(stopped.code, str) else capsys.readouterr().err
    return capsys.readouterr().out


def test_the_boxes_are_those_of_mmdets_own_inference(world, monkeypatch, capsys):
    from mmdet.apis import inference_detector, init_detector

    said = label(world, monkeypatch, capsys, '--score', '0.1', '--batch-size', '1')
    written = json.loads((world / 'labels.json').read_text())
    assert said.startswith('4 pictures; to label: 4\n')
    names = ['a.png', 'deep/b.png', 'deep/c.jpg', 'turned.jpg']
    assert [image['file_name'] for image in written['images']] == names
    assert [c['name'] for c in written['categories']] == list(CLASSES)
    network = init_detector(str(world / 'config.py'), str(world / 'teacher.pth'), device='cpu')
    for image in written['images']:
        picture = mmcv.imread(str(world / 'pictures' / image['file_name']))
        assert (image['height'], image['width']) == picture.shape[:2]
        found = inference_detector(network, picture).pred_instances
        found = found[found.scores >= 0.1]
        ours = [a for a in written['annotations'] if a['image_id'] == image['id']]
        assert len(ours) == len(found) > 0
        each = zip(ours, found.bboxes, found.labels, found.scores, strict=True)
        for one, box, y, sure in each:
            x1, y1, x2, y2 = box.tolist()
            assert one['bbox'] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=0.02)
            assert one['category_id'] == y + 1 and one['score'] == pytest.approx(
                float(sure), abs=1e-4
            )
            assert one['iscrowd'] == 0
    turned = written['images'][3]
    assert (turned['width'], turned['height']) == (30, 70)
    ids = [a['id'] for a in written['annotations']]
    assert len({*ids}) == len(ids) and not (world / 'labels.json.progress').exists()
    # Anybody's training reads it.
    dataset = DATASETS.build(
        dict(
            type='CocoDataset', ann_file=str(world / 'labels.json'), metainfo=dict(classes=CLASSES),
            data_prefix=dict(img=str(world / 'pictures')), pipeline=[],
        )
    )  # fmt: skip
    labels = [each['bbox_label'] for each in dataset[0]['instances']]
    first = [a['category_id'] - 1 for a in written['annotations'] if a['image_id'] == 1]
    assert labels == first
    assert 'exists: give another name' in label(world, monkeypatch, capsys)


def test_it_goes_on_after_a_kill(world, monkeypatch, capsys):
    options = ('--score', '0.1', '--batch-size', '2')
    label(world, monkeypatch, capsys, *options, out='whole.json')
    before, seen = labelling.Labeller.label, []

    def stopping(self, pictures, score):
        if seen:
            raise KeyboardInterrupt
        seen.append(len(pictures))
        return before(self, pictures, score)

    monkeypatch.setattr(labelling.Labeller, 'label', stopping)
    with pytest.raises(KeyboardInterrupt):
        label(world, monkeypatch, capsys, *options, out='broken.json')
    kept = world / 'broken.json.progress'
    with open(kept, 'a') as file:
        file.write('["deep/c.jpg", {"wid')  # the kill came while it wrote
    assert not (world / 'broken.json').exists()
    monkeypatch.setattr(labelling.Labeller, 'label', before)
    with kept.open('a') as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as another process that labels for the same file
        said = label(world, monkeypatch, capsys, *options, out='broken.json')
    assert "progress' is in use: another process labels for the same --out; wait" in said
    said = label(world, monkeypatch, capsys, '--score', '0.2', out='broken.json')
    assert "progress' holds what was done with another score" in said
    changed = (*options, '--cfg-options', 'model.test_cfg.nms.iou_threshold=0.1')
    said = label(world, monkeypatch, capsys, *changed, out='broken.json')
    assert "progress' holds what was done with other settings" in said
    # Another file may say what has changed: the config's base, or that of its teacher.
    config = (world / 'config.py').read_text()
    assert config.count('min_bbox_size=0') == 1
    (world / 'config.py').write_text("_base_ = ['base.py']")
    (world / 'base.py').write_text(config.replace('min_bbox_size=0', 'min_bbox_size=30'))
    said = label(world, monkeypatch, capsys, *options, out='broken.json')
    assert "progress' holds what was done with other settings" in said
    (world / 'base.py').write_text(config)
    capsys.readouterr()
    said = label(world, monkeypatch, capsys, *options, out='broken.json')
    assert '4 pictures; to label: 2' in said
    assert json.loads((world / 'broken.json').read_text()) == json.loads(
        (world / 'whole.json').read_text()
    )
    assert not kept.exists()
    # Also if the last picture was the last thing that it wrote.
    monkeypatch.setattr(labelling, '_content', mock.Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        label(world, monkeypatch, capsys, *options, out='broken2.json')
    monkeypatch.undo()
    lines = (world / 'broken2.json.progress').read_text().splitlines(keepends=True)
    last = max(i for i, line in enumerate(lines) if '.png' in line or '.jpg' in line)
    (world / 'broken2.json.progress').write_text(''.join(lines[: last + 1]))
    label(world, monkeypatch, capsys, *options, out='broken2.json')
    again = json.loads((world / 'broken2.json').read_text())
    assert again == json.loads((world / 'whole.json').read_text())


def test_a_coco_file_keeps_its_numbers_and_a_distillation_its_teacher(
    world, monkeypatch, capsys, tmp_path
):
    images = [dict(id=70, file_name='deep/b.png', licence=3), dict(id=9, file_name='a.png')]
    (world / 'some.json').write_text(json.dumps(dict(images=images, annotations=[dict(id=1)])))
    cfg = Config.fromfile(world / 'config.py')
    cfg.model = dict(
        type='kd_plugins.SingleTeacherDistill',
        architecture=detector('GFL', 2),
        teacher=cfg.model,
        teacher_class_map=['cat', 'ant'],
        distiller=dict(),
    )
    cfg.dump(world / 'distillation.py')
    more = ('--pictures', str(world / 'pictures'), '--score', '0.1')
    label(
        world, monkeypatch, capsys, *more, where='some.json', out='some_labels.json',
        config=world / 'distillation.py',
    )  # fmt: skip
    written = json.loads((world / 'some_labels.json').read_text())
    assert [(i['id'], i['width'], i.get('licence')) for i in written['images']] == [
        (70, 40, 3), (9, 64, None),
    ]  # fmt: skip
    assert [c['name'] for c in written['categories']] == ['cat', 'ant']
    assert {a['image_id'] for a in written['annotations']} <= {70, 9}
    cfg.model.teacher_input_size = 64
    cfg.dump(world / 'resized.py')
    said = label(world, monkeypatch, capsys, out='resized.json', config=world / 'resized.py')
    assert 'has model.teacher_input_size=64, and' in said and "teacher's own config" in said


def test_pictures_that_cannot_be_read_are_named_and_left_out(world, monkeypatch, capsys):
    bad = world / 'bad'
    bad.mkdir()
    good = (world / 'pictures/a.png').read_bytes()
    (bad / 'good.png').write_bytes(good)
    (bad / 'half.png').write_bytes(good[: len(good) // 2])
    (bad / 'none.jpg').write_bytes(b'')
    said = label(world, monkeypatch, capsys, '--score', '0.1', where='bad', out='bad.json')
    assert '2 pictures could not be read and are left out' in said
    assert 'half.png' in said and 'none.jpg' in said
    images = json.loads((world / 'bad.json').read_text())['images']
    assert [image['file_name'] for image in images] == ['good.png']
    (bad / 'good.png').unlink()
    said = label(world, monkeypatch, capsys, where='bad', out='worse.json')
    assert said.startswith('none of the 2 pictures of') and not (world / 'worse.json').exists()
    # They are there by the next time.
    for name in ('half.png', 'none.jpg'):
        (bad / name).write_bytes(good)
    said = label(world, monkeypatch, capsys, where='bad', out='worse.json')
    assert '2 pictures; to label: 2' in said and 'in 2 pictures' in said


def test_what_cannot_be_labelled_is_refused_in_a_sentence(world, monkeypatch, capsys, tmp_path):
    (world / 'empty').mkdir()
    (world / 'no.json').write_text('{"images": []}')
    for where, says in (
        ('empty', 'holds no pictures'), ('nowhere', 'is no folder'),
        ('no.json', 'is no COCO file with pictures'),
    ):  # fmt: skip
        assert says in label(world, monkeypatch, capsys, where=where, out='x.json')
    said = label(world, monkeypatch, capsys, '--score', '0.01', out='x.json')
    assert said.startswith('--score 0.01 is below') and 'test_cfg.score_thr=0.05' in said
    assert '--score=-1.0 is wrong' in label(
        world, monkeypatch, capsys, '--score', '-1', out='y.json'
    )
    assert 'is for a COCO file' in label(
        world, monkeypatch, capsys, '--pictures', str(world), out='z.json'
    )
    cfg = Config.fromfile(world / 'config.py')
    cfg.test_dataloader.dataset.metainfo = None
    unnamed = torch.load(world / 'teacher.pth')
    torch.save(unnamed['state_dict'], tmp_path / 'unnamed.pth')
    with pytest.raises(ValueError, match='knows 3 classes, and neither'):
        labelling.Labeller(cfg, str(tmp_path / 'unnamed.pth'))
    cfg.default_scope = 'mmpretrain'
    cfg.model = dict(type='ImageClassifier', backbone=dict(type='LeNet5'))
    with pytest.raises(ValueError, match='ImageClassifier, which finds no boxes'):
        labelling.Labeller(cfg, str(tmp_path / 'unnamed.pth'))
