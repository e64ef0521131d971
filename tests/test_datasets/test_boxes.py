"""Boxes of three forms, read as one; files that do not parse; faults of data."""

import copy
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.own_boxes import CLASSES, coco_folder, voc_folder, yolo_folder
from PIL import Image

from kd_plugins.datasets.boxes import AnnotationError, faults, faults_of, read_boxes
from kd_plugins.datasets.boxes.coco import parse
from kd_plugins.datasets.boxes.reading import is_turned_unseen, size_of


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return coco_folder(tmp_path_factory.mktemp('own') / 'coco', train=6, val=3)


@pytest.fixture
def coco(scenes, tmp_path):
    return shutil.copytree(scenes, tmp_path / 'coco')


@pytest.fixture
def voc(scenes, tmp_path):
    return voc_folder(scenes, tmp_path / 'voc')


@pytest.fixture
def yolo(scenes, tmp_path):
    return yolo_folder(scenes, tmp_path / 'yolo')


def boxes_of(part):
    """Per picture, by its pixels: what is in it."""
    names = {each['id']: each['name'] for each in part.content['categories']}
    found = {}
    for image in part.content['images']:
        pixels = (part.pictures / image['file_name']).read_bytes()
        found[pixels] = sorted(
            (names[t['category_id']], *map(float, t['bbox']))
            for t in part.content['annotations']
            if t['image_id'] == image['id']
        )
        assert (image['width'], image['height']) == (128, 128)
    return found


@pytest.mark.parametrize('form', ['voc', 'yolo', 'coco'])
def test_all_forms_of_one_data_set_are_one(scenes, form, request):
    found, original = read_boxes(request.getfixturevalue(form)), read_boxes(scenes)
    assert found.form == form.upper() and found.classes == CLASSES == original.classes
    for part, own in ((found.train, original.train), (found.val, original.val)):
        seen, wanted = boxes_of(part), boxes_of(own)
        assert seen.keys() == wanted.keys() and len(seen) in (6, 3)
        for pixels, things in wanted.items():
            assert [t[0] for t in seen[pixels]] == [t[0] for t in things]
            assert np.allclose([t[1:] for t in seen[pixels]], [t[1:] for t in things], atol=1e-4)
    # What is read is what COCO keeps.
    for part in (found.train, found.val):
        for thing in part.content['annotations']:
            assert thing['area'] == pytest.approx(thing['bbox'][2] * thing['bbox'][3])


def test_upstream_reads_what_was_converted(yolo, voc, tmp_path):
    """mmdet's own reader of VOC is the oracle of corners and labels."""
    from mmdet.datasets import CocoDataset, XMLDataset

    found = read_boxes(voc)
    path = tmp_path / 'train.json'
    path.write_text(json.dumps(found.train.content))
    meta = dict(classes=found.classes)
    ours = CocoDataset(
        ann_file=str(path), data_root=str(voc), metainfo=meta, data_prefix=dict(img=''), pipeline=[]
    )
    for file in (voc / 'JPEGImages').glob('*.png'):
        # The name that XMLDataset insists on; the sizes are in the XML files.
        shutil.copy(file, file.with_suffix('.jpg'))
    theirs = XMLDataset(
        ann_file='ImageSets/Main/train.txt', data_root=str(voc), metainfo=meta, pipeline=[],
        data_prefix=dict(sub_data_root=''),
    )  # fmt: skip
    theirs.full_init()
    ours.full_init()
    for i in range(6):
        a, b = ours.get_data_info(i), theirs.get_data_info(i)
        assert [t['bbox_label'] for t in a['instances']] == [
            t['bbox_label'] for t in b['instances']
        ]
        assert np.allclose([t['bbox'] for t in a['instances']], [t['bbox'] for t in b['instances']])


def test_corners_that_begin_at_0_count_from_0(scenes, tmp_path):
    folder = voc_folder(scenes, tmp_path / 'zero', first=0)
    assert boxes_of(read_boxes(folder).train) != boxes_of(read_boxes(scenes).train)
    xml = next((folder / 'Annotations').glob('train_*.xml'))
    text = xml.read_text()
    start = text.index('<xmin>') + 6
    xml.write_text(text[:start] + '0' + text[text.index('</xmin>') :])
    found = read_boxes(folder)
    assert list(found.notes) == ['coordinates were taken to count from 0']
    ours, theirs = (list(boxes_of(each.val).values()) for each in (found, read_boxes(scenes)))
    assert ours == theirs


def test_layouts_of_exporters_are_found(scenes, voc, yolo, tmp_path):
    other = tmp_path / 'roboflow'
    for split, name in (('train', 'train'), ('val', 'valid')):
        (other / name).mkdir(parents=True)
        for picture in (scenes / split).iterdir():
            shutil.copy(picture, other / name)
        shutil.copy(scenes / f'annotations/{split}.json', other / name / '_annotations.coco.json')
    assert boxes_of(read_boxes(other).val) == boxes_of(read_boxes(scenes).val)
    other = tmp_path / 'beside'
    for split, name in (('train', 'train'), ('val', 'test')):
        (other / name).mkdir(parents=True)
        for stem in (voc / f'ImageSets/Main/{split}.txt').read_text().split():
            shutil.copy(voc / f'JPEGImages/{stem}.png', other / name)
            shutil.copy(voc / f'Annotations/{stem}.xml', other / name)
    assert boxes_of(read_boxes(other).train) == boxes_of(read_boxes(scenes).train)
    other = tmp_path / 'ultra'
    for split in ('train', 'val'):
        shutil.copytree(yolo / 'images' / split, other / split / 'images')
        shutil.copytree(yolo / 'labels' / split, other / split / 'labels')
    (other / 'classes.txt').write_text('\n'.join(CLASSES))
    assert len(read_boxes(other).train.content['images']) == 6
    # Names by their number, and a part called valid.
    (other / 'val').rename(other / 'valid')
    (other / 'd.yaml').write_text('names: {' + ', '.join(f'{i}: d{i}' for i in range(10)) + '}')
    assert read_boxes(other).classes == [f'd{i}' for i in range(10)]


def test_a_polygon_is_its_box_and_a_picture_without_a_file_has_none(yolo):
    file = next((yolo / 'labels/train').glob('*.txt'))
    file.write_text('3 0.25 0.5 0.75 0.25 0.5 0.75\n\n')
    next(iter(sorted((yolo / 'labels/val').glob('*.txt')))).unlink()
    found = read_boxes(yolo)
    number = next(i['id'] for i in found.train.content['images'] if file.stem in i['file_name'])
    (box,) = [t for t in found.train.content['annotations'] if t['image_id'] == number]
    assert box['bbox'] == [32, 32, 64, 64] and box['category_id'] == 4
    assert len(found.val.content['images']) == 3
    assert {t['image_id'] for t in found.val.content['annotations']} == {2, 3}


def difficult(voc):
    xml = next((voc / 'Annotations').glob('train_*.xml'))
    xml.write_text(xml.read_text().replace('</name>', '</name><difficult>1</difficult>', 1))


@pytest.mark.parametrize('said, ignored', [('1', 1), ('True', 1), ('0', 0), ('false', 0), ('', 0)])
def test_difficult_is_a_number_or_a_word(voc, said, ignored):
    xml = next((voc / 'Annotations').glob('train_*.xml'))
    text = xml.read_text().replace('</name>', f'</name><difficult>{said}</difficult>')
    xml.write_text(text)
    content = read_boxes(voc).train.content
    (image,) = [i['id'] for i in content['images'] if Path(i['file_name']).stem == xml.stem]
    crowds = [t['iscrowd'] for t in content['annotations'] if t['image_id'] == image]
    assert crowds == [ignored] * text.count('<object>') != []


def test_difficult_objects_are_ignored_as_crowds_are(voc):
    difficult(voc)
    content = read_boxes(voc).train.content
    assert sum(thing['iscrowd'] for thing in content['annotations']) == 1


# ---------------------------------------------------------------- what does not parse


def spoil(path, change):
    path.write_text(change(path.read_text()))


def first(folder, pattern):
    return sorted(folder.glob(pattern))[0]


@pytest.mark.parametrize('text, line, said', [
    ('1 0.5 0.5 0.2 0.2\n1 0.5 x 0.2 0.2\n', 2, 'are not all numbers'),
    ('1 0.5 0.5 0.2\n', 1, 'has 4 numbers'),
    ('1 0.5 0.5 0.2 0.2\n\n10 0.5 0.5 0.2 0.2\n', 3, 'the class 10 is none of the 10'),
    ('-1 0.5 0.5 0.2 0.2\n', 1, 'the class -1'), ('1.5 0.5 0.5 0.2 0.2\n', 1, 'the class 1.5'),
    ('1 64 64 20 20\n', 1, 'is in pixels'), ('1 nan 0.5 0.2 0.2\n', 1, 'is in pixels'),
])  # fmt: skip
def test_labels_that_do_not_parse_are_named_with_their_line(yolo, text, line, said):
    file = first(yolo / 'labels/train', '*.txt')
    file.write_text(text)
    with pytest.raises(AnnotationError, match=said) as refused:
        read_boxes(yolo)
    assert str(refused.value).startswith(f'{file}, line {line}: ')


def test_other_files_of_yolo_are_named(yolo):
    (yolo / 'data.yaml').write_text('names: [a, b\ntrain: x\n')
    with pytest.raises(AnnotationError, match=r'data.yaml, line \d: is no YAML'):
        read_boxes(yolo)
    (yolo / 'data.yaml').write_text('names: {0: a, 2: b}')
    with pytest.raises(AnnotationError, match='not all from 0 on'):
        read_boxes(yolo)
    (yolo / 'data.yaml').unlink()
    with pytest.raises(ValueError, match='nothing that names the classes'):
        read_boxes(yolo)
    (yolo / 'classes.txt').write_text('\n'.join(CLASSES))
    (yolo / 'labels/train/stray.txt').write_text('')
    with pytest.raises(AnnotationError, match=r"stray.txt: there is no picture called 'stray'"):
        read_boxes(yolo)
    shutil.rmtree(yolo / 'labels/val')
    with pytest.raises(ValueError, match='labels for train only'):
        read_boxes(yolo)


def test_xml_that_does_not_parse_is_named_with_its_line(voc):
    file = first(voc / 'Annotations', 'train_*.xml')
    whole = file.read_text()
    lines = whole.splitlines()
    start = next(i for i, line in enumerate(lines) if '<object' in line) + 1
    for old, new, line, said in (
        ('</object>', '</objekt>', None, 'is no XML: mismatched tag'),
        ('<xmin>', '<xmin>left', start, 'this object has not xmin'),
        ('<bndbox>', '<box>', None, 'is no XML'),
        ('<name>', '<name/><n>', None, 'is no XML'),
    ):
        file.write_text(whole.replace(old, new, 1))
        with pytest.raises(AnnotationError, match=said) as refused:
            read_boxes(voc)
        assert str(refused.value).startswith(f'{file}, line {line or ""}')
    file.write_text(
        whole.replace('<name>', '<name></name><was>', 1).replace('</name>\n', '</was>\n', 1)
    )
    with pytest.raises(AnnotationError, match='this object has not a name'):
        read_boxes(voc)
    file.write_text(whole)
    first(voc / 'JPEGImages', f'{file.stem}.*').unlink()
    with pytest.raises(AnnotationError, match='there is no picture called'):
        read_boxes(voc)
    file.unlink()
    with pytest.raises(AnnotationError, match=r'train.txt, line 1: names .* is no file'):
        read_boxes(voc)
    (voc / 'ImageSets/Main/val.txt').unlink()
    with pytest.raises(ValueError, match=r'needs train.txt and val.txt there'):
        read_boxes(voc)


def test_several_years_of_voc_are_asked_about(voc, tmp_path):
    for year in ('VOC2007', 'VOC2012'):
        shutil.copytree(voc, tmp_path / 'kit' / year)
    with pytest.raises(ValueError, match='VOC2007.*VOC2012: give one'):
        read_boxes(tmp_path / 'kit')


@pytest.mark.parametrize('change, said', [
    (lambda t: t[: len(t) // 2], r'train.json, line 1: is no JSON'),
    (lambda t: t.replace(',', ',\n', 5)[:-1] + ',', r'train.json, line \d: is no JSON'),
    (lambda t: '[]', 'holds a list'),
    (lambda t: t.replace('"images"', '"pictures"', 1), 'has no list of images'),
    (lambda t: t.replace('"area"', '"aera"', 1), r"annotations\[0\] has no 'area'"),
    (lambda t: t.replace('"width"', '"breite"', 1), r"images\[0\] has no 'width'"),
    (lambda t: t.replace('"bbox": [', '"bbox": [null, ', 1), 'which are not four numbers'),
])  # fmt: skip
def test_json_that_does_not_parse_is_named(coco, change, said):
    spoil(coco / 'annotations/train.json', change)
    with pytest.raises(AnnotationError, match=said) as refused:
        read_boxes(coco)
    assert str(refused.value).startswith(str(coco / 'annotations/train.json'))


def test_parts_that_do_not_belong_together_are_refused(coco, tmp_path):
    val = coco / 'annotations/val.json'
    content = json.loads(val.read_text())
    content['categories'].reverse()
    val.write_text(json.dumps(content))
    with pytest.raises(ValueError, match='numbers classes in the order of each file'):
        read_boxes(coco)
    val.unlink()
    with pytest.raises(ValueError, match='no validation part'):
        read_boxes(coco)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match='has no boxes: give a COCO folder'):
        read_boxes(tmp_path / 'empty')


@pytest.mark.parametrize('part, key, value, said', [
    ('images', 'width', '128', r'images\[1\] has the width .128., which is no number'),
    ('images', 'id', [1], r'images\[1\] has the id \[1\], which is no number or text'),
    ('annotations', 'area', None, r'annotations\[1\] has the area None, which is no number'),
    ('annotations', 'category_id', None, r'category_id None, which is no number or text'),
    ('categories', 'name', 5, r'categories\[1\] has the name 5, which is no text'),
])  # fmt: skip
def test_values_of_another_kind_are_named(coco, part, key, value, said):
    path = coco / 'annotations/train.json'
    content = json.loads(path.read_text())
    content[part][1][key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match=said):
        read_boxes(coco)


@pytest.mark.parametrize('part', ['images', 'categories'])
def test_an_empty_file_is_named(coco, part):
    for name in ('train', 'val'):
        path = coco / f'annotations/{name}.json'
        path.write_text(
            json.dumps(dict(json.loads(path.read_text()), annotations=[], **{part: []}))
        )
    with pytest.raises(AnnotationError, match=f'train.json: {part} is empty'):
        read_boxes(coco)


def test_trainval_is_for_training(coco):
    for old, new in (('train', 'trainval'), ('val', 'test')):
        (coco / f'annotations/{old}.json').rename(coco / f'annotations/instances_{new}.json')
        (coco / old).rename(coco / new)
    found = read_boxes(coco)
    assert (
        found.train.ann_file.stem == 'instances_trainval'
        and len(found.train.content['images']) == 6
    )
    assert found.val.ann_file.stem == 'instances_test' and len(found.val.content['images']) == 3


def test_hidden_files_are_none_of_the_data_and_names_may_have_blanks(voc, yolo):
    train = read_boxes(voc).train
    before, stem = (
        boxes_of(train),
        train.content['images'][0]['file_name'].split('/')[1].removesuffix('.png'),
    )
    for folder, ending in (('Annotations', '.xml'), ('JPEGImages', '.png')):
        (voc / folder / f'{stem}{ending}').rename(voc / folder / f'my picture (1){ending}')
        (voc / folder / f'._x{ending}').write_bytes(b'Mac')
    spoil(voc / 'ImageSets/Main/train.txt', lambda text: text.replace(stem, 'my picture (1)'))
    assert boxes_of(read_boxes(voc).train) == before
    before = boxes_of(read_boxes(yolo).train)
    (yolo / 'images/train/._x.png').write_bytes(b'Mac')
    (yolo / 'labels/train/._x.txt').write_bytes(b'Mac')
    assert boxes_of(read_boxes(yolo).train) == before
    # One of two would have been left out.
    picture = next((yolo / 'images/train').glob('0*.png'))
    shutil.copy(picture, picture.with_suffix('.bmp'))
    with pytest.raises(AnnotationError, match=r'00\d.bmp is called the same'):
        read_boxes(yolo)


def test_points_that_follow_a_box_are_no_polygon(yolo):
    """With four points of two numbers a line has as many as a polygon may have."""
    before = read_boxes(yolo)
    for file in yolo.glob('labels/*/*.txt'):
        spoil(file, lambda text: text.replace('\n', ' 0.1 0.9 0 0 0.5 0.5 0.2 0.3\n'))
    assert boxes_of(read_boxes(yolo).train) != boxes_of(before.train)
    spoil(yolo / 'data.yaml', lambda text: text + 'kpt_shape: [4, 2]\n')
    assert boxes_of(read_boxes(yolo).train) == boxes_of(before.train)


@pytest.mark.parametrize('said, noted', [
    ('images/val', False), ('../images/val/', False), ('/home/me/images/val', False),
    ('val', False), ('images/other', True), ('val.txt', True), ('[images/val, images/b]', True),
])  # fmt: skip
def test_a_folder_that_yolo_names_and_another_is_taken_is_said(yolo, said, noted):
    (yolo / 'data.yaml').write_text(f'names: {CLASSES}\nval: {said}\n')
    notes = read_boxes(yolo).notes
    assert len(notes) == noted and all('as val, and images/val was taken' in n for n in notes)


def test_names_that_contradict_each_other_are_refused(yolo):
    (yolo / 'args.yaml').write_text('lr: 3\n')
    assert read_boxes(yolo).classes == CLASSES
    (yolo / 'args.yaml').write_text(f'names: {CLASSES[::-1]}\n')
    with pytest.raises(AnnotationError, match=r'data.yaml: its names are .*args.yaml are .*leave'):
        read_boxes(yolo)
    (yolo / 'args.yaml').write_text(f'nc: 3\nnames: {CLASSES}\n')
    with pytest.raises(AnnotationError, match='args.yaml: nc is 3, and names has 10'):
        read_boxes(yolo)


def test_names_are_text_as_they_stand(yolo):
    names = ['no', 'yes', '07', '1.0', 'null', 'a', 'b', 'c', 'd', 'e']
    for text in (
        f'names: [{", ".join(names)}]\n',
        'names:\n' + ''.join(f'  {i}: {name}\n' for i, name in enumerate(names)),
    ):
        (yolo / 'data.yaml').write_text(text)
        assert read_boxes(yolo).classes == names
    (yolo / 'data.yaml').write_bytes('names: [é]\n'.encode('latin1'))
    with pytest.raises(AnnotationError, match='data.yaml: cannot be read as text'):
        read_boxes(yolo)


def test_files_of_other_tasks_are_passed_over(coco):
    for name in ('captions_train2017', 'person_keypoints_train2017'):
        (coco / f'annotations/{name}.json').write_text('{}')
    (coco / 'annotations/train.json').rename(coco / 'annotations/instances_train2017.json')
    (coco / 'train').rename(coco / 'train2017')
    found = read_boxes(coco)
    assert found.train.pictures == coco / 'train2017'
    shutil.rmtree(coco / 'train2017')
    with pytest.raises(ValueError, match="names the picture '000000.png', which is in none of"):
        read_boxes(coco)


def test_of_several_files_of_a_part_it_is_said_which_was_taken(coco):
    assert read_boxes(coco).notes == []
    for path in (coco / 'annotations/train.json', coco / 'annotations/val.json'):
        shutil.copy(path, path.with_stem(f'{path.stem}_b'))
    assert read_boxes(coco).notes == [
        'train.json was taken, and not train_b.json', 'val.json was taken, and not val_b.json'
    ]  # fmt: skip


def test_folders_behind_links_are_read(yolo):
    before = boxes_of(read_boxes(yolo).train)
    for kind in ('images', 'labels'):
        (yolo / kind / 'train').rename(yolo / f'{kind}_elsewhere')
        (yolo / kind / 'train').mkdir()
        # One of two that lead to one folder would be taken for a loop, and another one is.
        (yolo / kind / 'train/link').symlink_to(yolo / f'{kind}_elsewhere')
        (yolo / kind / 'train/again').symlink_to(yolo / f'{kind}_elsewhere')
        (yolo / f'{kind}_elsewhere/loop').symlink_to(yolo / kind / 'train')
    found = read_boxes(yolo).train
    assert boxes_of(found) == before
    assert len(found.content['images']) == 2 * len(before)


# ---------------------------------------------------------------- what is wrong though it parses


def said_of(content, pictures=None, name='train'):
    return {
        fault.what.split(': ', 1)[1]: fault.level for fault in faults_of(content, pictures, name)
    }


def find(faults_said, words):
    return [level for what, level in faults_said.items() if words in what]


@pytest.fixture
def content(scenes):
    return copy.deepcopy(parse(scenes / 'annotations/train.json'))


def test_sound_data_have_no_fault(scenes):
    found = faults(read_boxes(scenes))
    assert all('no object is a' in fault.what for fault in found)


@pytest.mark.parametrize('box, words', [
    ([5, 5, 0.5, 9], 'thinner than a pixel'), ([5, 5, -3, 9], 'thinner than a pixel'),
    ([5, 5, float('nan'), 9], 'thinner than a pixel'), ([130, 5, 9, 9], 'lie outside'),
    ([-20, 5, 19, 9], 'lie outside'), ([100, 100, 60, 9], 'reach out'),
    ([-5, 5, 19, 9], 'reach out'), ([-0.6, 5, 19, 9], None), ([100, 100, 28.7, 9], None),
])  # fmt: skip
def test_boxes_that_are_no_boxes_of_their_picture(content, box, words):
    content['annotations'][3]['bbox'] = box
    found = said_of(content)
    assert find(found, words or 'boxes') == (['warning'] if words else [])
    if words:
        assert any('first: annotation' in what and '1 of ' in what for what in found)


def ap_of_perfect_answers(content, path, without=None):
    from mmdet.evaluation import CocoMetric
    from mmengine.registry import init_default_scope

    init_default_scope('mmdet')
    path.write_text(json.dumps(content))
    metric = CocoMetric(ann_file=str(path), metric='bbox')
    metric.dataset_meta = dict(classes=CLASSES)
    label = {each['id']: i for i, each in enumerate(content['categories'])}
    for image in content['images']:
        things = [
            t for t in content['annotations'] if t['image_id'] == image['id'] and t is not without
        ]
        x, y, w, h = torch.tensor([t['bbox'] for t in things]).float().T
        answers = dict(
            bboxes=torch.stack([x, y, x + w, y + h], 1),
            scores=torch.ones(len(things)),
            labels=torch.tensor([label[t['category_id']] for t in things]),
        )
        metric.process({}, [dict(img_id=image['id'], ori_shape=(128, 128), pred_instances=answers)])
    return metric.evaluate(len(content['images']))['coco/bbox_mAP']


def test_annotations_that_the_evaluation_reads_otherwise_are_said(content, tmp_path):
    assert ap_of_perfect_answers(content, tmp_path / 'a.json') == 1
    assert find(said_of(content, name='val'), 'annotation') == []
    for thing in content['annotations']:
        thing['id'] -= 1
    assert ap_of_perfect_answers(content, tmp_path / 'b.json') < 1
    assert find(said_of(content, name='val'), 'has the id 0') == ['warning']
    assert find(said_of(content, name='train'), 'has the id 0') == []
    del content['annotations'][0]['iscrowd']
    with pytest.raises(KeyError, match='iscrowd'):
        ap_of_perfect_answers(content, tmp_path / 'c.json')
    assert find(said_of(content, name='val'), '1 annotations have no iscrowd') == ['error']


@pytest.mark.parametrize('changes', [
    dict(bbox=[5, 5, 0.5, 9]), dict(bbox=[200, 5, 9, 9]), dict(area=0),
])  # fmt: skip
def test_boxes_that_mmdet_passes_over_are_missed_where_it_measures(content, tmp_path, changes):
    bad = content['annotations'][3]
    bad.update(changes)
    # mmdet finds all but that one.
    assert ap_of_perfect_answers(content, tmp_path / 'a.json', without=bad) < 1
    assert find(said_of(content, name='val'), 'counts them as missed') == ['warning']
    assert find(said_of(content), 'mmdet passes over them') == ['warning']


def test_a_class_of_crowds_only_has_no_object(content):
    (first, *_) = content['annotations']
    for thing in content['annotations']:
        thing['iscrowd'] = int(thing['category_id'] == first['category_id'])
    name = {each['id']: each['name'] for each in content['categories']}[first['category_id']]
    (said,) = [what for what in said_of(content) if 'no object is a' in what]
    assert name in said.split('no object is a ')[1]


def test_boxes_of_which_none_is_left_are_an_error(content):
    for thing in content['annotations']:
        thing['area'] = 0
    found = said_of(content)
    assert find(found, 'have an area of 0') == ['error']


def test_what_mmdet_passes_over_is_what_is_said(content, tmp_path):
    """As many boxes are lost as the faults count."""
    from mmdet.datasets import CocoDataset

    things = content['annotations']
    before = len(things)
    things[0]['bbox'], things[1]['bbox'] = [200, 5, 9, 9], [5, 5, 0.4, 9]
    things[2]['category_id'], things[3]['image_id'] = 77, 99
    things[4]['area'], things[5]['ignore'] = 0, 1
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(content))
    data = CocoDataset(
        ann_file=str(path), metainfo=dict(classes=CLASSES), data_prefix=dict(img=''), pipeline=[]
    )
    data.full_init()
    kept = sum(len(data.get_data_info(i)['instances']) for i in range(len(data)))
    assert before - kept == 6
    found = said_of(content)
    for words in (
        'lie outside',
        'thinner',
        'have a category_id',
        'have a image_id',
        'have an area of 0',
        'marked by ignore',
    ):
        assert find(found, words) == ['warning']


def test_ids_that_are_there_twice_and_empty_classes(content):
    content['annotations'][1]['id'] = content['annotations'][0]['id']
    content['images'][2]['file_name'] = content['images'][0]['file_name']
    content['categories'].append(dict(id=42, name='unicorn'))
    content['images'].append(dict(id=99, file_name='x.png', width=9, height=9))
    found = said_of(content)
    assert find(found, '1 ids of annotations are there twice') == ['error']
    assert find(found, '1 file_names of images are there twice') == ['warning']
    assert find(found, 'unicorn') == ['warning']
    assert find(found, 'pictures have no object') == ['note']
    content['images'][1]['id'] = content['images'][0]['id']
    content['categories'][1]['name'] = content['categories'][0]['name']
    found = said_of(content)
    assert find(found, 'ids of images') == find(found, 'names of categories') == ['error']


def test_pictures_that_are_not_what_the_file_says(coco):
    pictures = coco / 'train'
    content = parse(coco / 'annotations/train.json')
    assert find(said_of(content, pictures), 'not there') == []
    (pictures / '000001.png').unlink()
    (pictures / '000002.png').write_bytes(b'no picture')
    cv2.imwrite(str(pictures / '000003.png'), np.zeros((64, 128, 3), np.uint8))
    found = said_of(content, pictures)
    assert find(found, '1 of 6 pictures are not there') == ['error']
    assert find(found, 'is no picture that can be read') == ['error']
    assert find(found, 'as 128 x 64') == ['error']


@pytest.mark.parametrize('orientation', [1, 3, 6])
@pytest.mark.parametrize('ending', ['jpg', 'png', 'tiff', 'webp'])
def test_a_size_is_that_of_the_picture_as_upstream_turns_it(tmp_path, ending, orientation):
    """A camera that was held upright writes a wide picture and says so in EXIF."""
    path = tmp_path / f'turned.{ending}'
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new('RGB', (60, 20)).save(path, exif=exif)
    from mmcv.transforms import LoadImageFromFile
    from mmdet.datasets.transforms import LoadAnnotations  # noqa: F401

    height, width = LoadImageFromFile()(dict(img_path=str(path)))['img'].shape[:2]
    assert size_of(path) == (width, height)
    if ending == 'jpg':
        assert (width, height) == ((20, 60) if orientation == 6 else (60, 20))


@pytest.mark.parametrize('orientation, size, unseen', [
    (1, (60, 20), False), (2, (60, 20), True), (3, (60, 20), True), (6, (60, 20), False),
    (6, (40, 40), True),
])  # fmt: skip
def test_a_turn_that_no_size_tells_is_said(content, tmp_path, orientation, size, unseen):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.arange(size[0] * size[1], dtype=np.uint8).reshape(size[::-1])
    Image.fromarray(pixels).convert('RGB').save(tmp_path / 'a.jpg', exif=exif, quality=100)
    Image.fromarray(pixels).convert('RGB').save(tmp_path / 'plain.jpg', quality=100)
    loaded, plain = (cv2.imread(str(tmp_path / name)) for name in ('a.jpg', 'plain.jpg'))
    # What the sizes do not tell and the pixels do.
    assert unseen == (loaded.shape == plain.shape and bool((loaded != plain).any()))
    assert is_turned_unseen(tmp_path / 'a.jpg') == unseen
    content['images'] = [
        dict(id=1, file_name='a.jpg', width=loaded.shape[1], height=loaded.shape[0])
    ]
    said = find(said_of(content, tmp_path), 'turned or mirrored when they are loaded')
    assert said == (['note'] if unseen else [])


def test_a_picture_from_the_air_has_a_size(tmp_path):
    # Pillow takes pictures from the air for bombs.
    Image.new('1', (15000, 15000)).save(tmp_path / 'air.png')
    assert size_of(tmp_path / 'air.png') == (15000, 15000)


def test_both_parts_with_the_same_pictures_are_said(coco):
    shutil.copy(coco / 'annotations/train.json', coco / 'annotations/val.json')
    for picture in (coco / 'train').iterdir():
        picture.rename(coco / picture.name)
    shutil.rmtree(coco / 'train')
    shutil.rmtree(coco / 'val')
    found = [fault.what for fault in faults(read_boxes(coco))]
    assert any('6 pictures are in train and in val (first: 000000.png)' in what for what in found)
