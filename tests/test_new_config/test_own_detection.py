"""Configs of detectors on data of one's own."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.own_boxes import CLASSES, coco_folder, voc_folder, yolo_folder
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import init_default_scope

from kd_plugins.datasets.boxes import read_boxes
from kd_plugins.experiments.inspected import measure_on_validation
from kd_plugins.inspect.check import check
from kd_plugins.inspect.check.boxes import examine_annotations
from kd_plugins.inspect.check.pictures import Pictures
from kd_plugins.inspect.check.report import Report
from kd_plugins.networks import build_network, classes_of, resolve_network
from kd_plugins.new_config.detection import heads_of
from kd_plugins.new_config.request import Request
from kd_plugins.new_config.writing import new_config, write_config
from kd_plugins.registry import MODELS

STUDENT = str(ROOT / 'configs/vanilla/gfl_scenes_student.py')
TEACHER = str(ROOT / 'configs/vanilla/gfl_scenes_teacher.py')
TWO_STAGE = str(ROOT / 'configs/vanilla/faster-rcnn_scenes_student.py')
GFL = 'mmdet::gfl/gfl_r50_fpn_1x_coco.py'


@pytest.fixture(scope='module')
def own(tmp_path_factory):
    """The same scenes in three forms."""
    root = tmp_path_factory.mktemp('own')
    source = coco_folder(root / 'coco')
    voc_folder(source, root / 'voc')
    yolo_folder(source, root / 'yolo')
    return root


def written(path, student, method='alone', teacher=None, ckpt=None, data=None, batch=None):
    request = Request(student, method, path, teacher, ckpt, data, batch)
    write_config(request)
    return Config.fromfile(path)


def test_a_foundation_model_teaches_on_own_boxes_without_knowing_classes(own, tmp_path):
    teacher = tmp_path / 'vit.py'
    vit = dict(
        type='VisionTransformer', img_size=64, patch_size=16, out_type='featmap',
        arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16),
    )  # fmt: skip
    model = dict(type='ImageClassifier', _scope_='mmpretrain', backbone=vit)
    teacher.write_text(f"default_scope = 'mmpretrain'\nmodel = {model}\n")
    path = str(tmp_path / 'vit.pth')
    init_default_scope('mmpretrain')
    torch.save(MODELS.build(model).state_dict(), path)
    cfg = written(tmp_path / 'my.py', STUDENT, 'cosine', str(teacher), path, own / 'coco', 4)
    assert cfg.model.architecture.bbox_head.num_classes == 10
    assert [*cfg.model.teacher] == ['cfg_path']
    report = check(cfg, iterations=2, teacher_batches=1, debug=True)
    assert report.ok and not report.teacher_metrics
    assert 'the teacher has no head' in '\n'.join(each.what for each in report.findings)
    assert measure_on_validation(cfg) == {}


@pytest.mark.parametrize('form', ['coco', 'voc', 'yolo'])
def test_a_config_for_each_form_trains(own, tmp_path, form):
    student = TWO_STAGE if form == 'voc' else STUDENT
    cfg = written(tmp_path / 'my.py', student, data=own / form, batch=4)
    report = check(cfg, iterations=2, teacher_batches=0, debug=True)
    assert report.ok and report.data.samples == 8 and report.data.classes == 10
    assert report.student.classes == 10 and report.data.batch_size == 4
    assert cfg.val_evaluator.type == cfg.test_evaluator.type == 'CocoMetric'
    annotations = Path(cfg.val_evaluator.ann_file)
    assert len(json.loads(annotations.read_text())['images']) == 4
    # COCO's own files are used as they are, others are written beside the config.
    assert annotations.is_relative_to(own / 'coco' if form == 'coco' else tmp_path)


def test_of_all_forms_the_same_is_learnt(own, tmp_path):
    """One batch in the same order: the same pictures and boxes, so the same losses."""
    losses = []
    for form in ('coco', 'voc', 'yolo'):
        cfg = written(tmp_path / f'{form}.py', STUDENT, data=own / form, batch=8)
        cfg.train_dataloader.sampler.shuffle = False
        losses.append(check(cfg, 1, 0, debug=True).losses)
    assert losses[0].keys() == losses[1].keys() and len(losses[0]) == 3
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], rel=1e-4)


def test_the_learning_rate_and_the_warm_up_follow_from_the_batch(own, tmp_path):
    base = Config.fromfile(STUDENT)
    cfg = written(tmp_path / 'a.py', STUDENT, data=own / 'coco', batch=2)
    assert base.auto_scale_lr.base_batch_size == 8 and cfg.train_dataloader.batch_size == 2
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(base.optim_wrapper.optimizer.lr / 4)
    assert cfg.optim_wrapper.optimizer.type == 'AdamW'
    assert cfg.auto_scale_lr.base_batch_size == 2
    # A warm-up of 500 iterations would be longer than the training of 4 iterations an epoch.
    warmup = [s for s in cfg.param_scheduler if s.type == 'LinearLR'][0]
    assert warmup.end == 4 < [s for s in base.param_scheduler if s.type == 'LinearLR'][0].end
    assert '--auto-scale-lr' in (tmp_path / 'a.py').read_text()
    same = written(tmp_path / 'b.py', STUDENT, data=own / 'coco')
    assert same.optim_wrapper.optimizer.lr == base.optim_wrapper.optimizer.lr
    stock = written(tmp_path / 'c.py', GFL, data=own / 'voc', batch=4)
    assert stock.optim_wrapper.optimizer.lr == pytest.approx(0.01 / 4)
    assert [s.type for s in stock.param_scheduler] == ['LinearLR', 'MultiStepLR']


def test_a_learning_rate_that_nobody_knows_the_batch_of_is_said_to_stay(own, tmp_path):
    base, data = tmp_path / 'base.py', own / 'coco'
    base.write_text(f'_base_ = [{STUDENT!r}]\nauto_scale_lr = None\n')
    for student, batch, noted in ((base, 8, 0), (base, None, 0), (base, 2, 1), (STUDENT, 2, 0)):
        request = Request(str(student), 'alone', tmp_path / 'a.py', data=data, batch_size=batch)
        assert ('optim_wrapper' in new_config(request)) == (student == STUDENT)
        assert ['the learning rate stays' in n for n in request.boxes.notes] == [True] * noted


def test_a_warm_up_may_be_as_long_as_the_epoch_of_a_dataset_that_is_repeated(own, tmp_path):
    base = tmp_path / 'base.py'
    base.write_text(
        f'_base_ = [{STUDENT!r}]\n'
        "train_dataloader = dict(dataset=dict(_delete_=True, type='RepeatDataset', times=3,\n"
        '    dataset=_base_.train_dataloader.dataset))\n'
    )
    cfg = written(tmp_path / 'a.py', str(base), data=own / 'coco', batch=2)
    assert cfg.train_dataloader.dataset.times == 3
    (warmup,) = [s for s in cfg.param_scheduler if s.type == 'LinearLR']
    assert warmup.end == 3 * 8 / 2


@pytest.mark.parametrize('path, heads', [
    (GFL, 1),
    ('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 1),
    ('mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py', 3),
    ('mmdet::detr/detr_r50_8xb2-150e_coco.py', 1),
    ('mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py', 1),
    ('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', 1),
    ('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py', 1),
    ('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', 1),
])  # fmt: skip
def test_all_heads_of_stock_detectors_get_the_classes(path, heads):
    override = heads_of(path, 7)
    network, _ = resolve_network(dict(cfg_path=path, **override), 'x')
    network.pop('init_cfg', None)
    network.backbone.pop('init_cfg', None)
    init_default_scope('mmdet')
    model = build_network(network, 'x')
    assert classes_of(model) == 7
    heads_seen = [
        module.num_classes
        for name, module in model.named_modules()
        if isinstance(getattr(module, 'num_classes', None), int) and 'rpn' not in name
    ]
    assert set(heads_seen) == {7} and len(heads_seen) >= heads


def test_datasets_that_mix_others_keep_doing_so(own, tmp_path):
    cfg = written(tmp_path / 'yolox.py', 'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py',
                  data=own / 'yolo', batch=2)  # fmt: skip
    mixed = cfg.train_dataloader.dataset
    assert mixed.type == 'MultiImageMixDataset' and len(mixed.pipeline) > 2
    assert mixed.dataset.type == 'CocoDataset' and mixed.dataset.data_root == str(own / 'yolo')
    assert [step.type for step in mixed.dataset.pipeline] == [
        'LoadImageFromFile',
        'LoadAnnotations',
    ]
    assert mixed.dataset.metainfo.classes == CLASSES


def save(path, target, classes=None, **changes):
    network, _ = resolve_network(dict(cfg_path=path, **changes), 'x')
    network.backbone.pop('init_cfg', None)
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = build_network(network, 'x')
    content = dict(state_dict=model.state_dict())
    if classes:
        content['meta'] = dict(dataset_meta=dict(classes=tuple(classes)))
    torch.save(content, target)
    return str(target)


def test_a_distillation_on_own_data_trains(own, tmp_path):
    ckpt = save(TEACHER, tmp_path / 't.pth', CLASSES)
    cfg = written(tmp_path / 'kd.py', STUDENT, 'bckd', TEACHER, ckpt, own / 'yolo', 4)
    assert 'teacher_class_map' not in cfg.model
    report = check(cfg, 2, 2, debug=True)
    assert report.student.classes == report.teacher.classes == 10
    assert [finding for finding in report.findings if 'class' in finding.what.split(':')[0]] == []
    assert len(report.terms) == 2


def test_a_teacher_that_orders_its_classes_otherwise_gets_a_map(own, tmp_path):
    """Its answers to a class are the same, whichever order it knows them in."""
    straight = save(TEACHER, tmp_path / 'straight.pth', CLASSES)
    content = torch.load(straight)
    for key, value in content['state_dict'].items():
        if key.startswith('bbox_head.gfl_cls'):
            content['state_dict'][key] = value.flip(0).clone()
    content['meta'] = dict(dataset_meta=dict(classes=tuple(reversed(CLASSES))))
    torch.save(content, tmp_path / 'turned.pth')
    found = []
    for name in ('straight', 'turned'):
        cfg = written(tmp_path / f'{name}.py', STUDENT, 'bckd', TEACHER,
                      str(tmp_path / f'{name}.pth'), own / 'coco', 8)  # fmt: skip
        cfg.train_dataloader.sampler.shuffle = False
        found.append((cfg, check(cfg, 1, 0, debug=True)))
    assert found[1][0].model.teacher_class_map == CLASSES
    assert found[1][1].losses == pytest.approx(found[0][1].losses, rel=1e-5)
    # By hand without the map it is refused, by the check as by the training.
    cfg = found[1][0]
    cfg.model.pop('teacher_class_map')
    report = check(cfg, 1, 0)
    assert not report.ok and any('not those of the training set' in f.what for f in report.findings)


def test_a_stock_teacher_gets_as_many_classes_as_its_checkpoint_names(own, tmp_path):
    """And not as many as the data, nor the 80 of its config."""
    known = ['rest', *reversed(CLASSES)]
    head = dict(bbox_head=dict(num_classes=len(known)))
    ckpt = save(GFL, tmp_path / 't.pth', known, **head)
    cfg = written(tmp_path / 'kd.py', GFL, 'bckd', GFL, ckpt, own / 'coco', 4)
    assert cfg.model.teacher.bbox_head.num_classes == 11
    assert cfg.model.architecture.bbox_head.num_classes == 10
    assert cfg.model.teacher_class_map == CLASSES
    rows = torch.load(ckpt)['state_dict']['bbox_head.gfl_cls.bias']
    init_default_scope('mmdet')
    teacher = MODELS.build(cfg.model).teacher.network
    assert torch.equal(teacher.bbox_head.gfl_cls.bias, rows[1:].flip(0))


@pytest.mark.parametrize('student, batch', [
    ('rtmdet/rtmdet_tiny_8xb32-300e_coco.py', 256), ('yolox/yolox_tiny_8xb8-300e_coco.py', 64),
])  # fmt: skip
def test_the_rate_that_a_schedule_ends_at_follows_too(own, tmp_path, student, batch):
    """Otherwise the rate of a small batch would rise to it."""
    stock = get_config(f'mmdet::{student}')
    cfg = written(tmp_path / 'a.py', f'mmdet::{student}', data=own / 'coco', batch=2)
    rate = stock.optim_wrapper.optimizer.lr
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(rate * 2 / batch, rel=1e-3)
    (before,), (after,) = (
        [s.eta_min for s in c.param_scheduler if 'eta_min' in s] for c in (stock, cfg)
    )
    assert after == pytest.approx(before * 2 / batch, rel=1e-3)
    assert after < cfg.optim_wrapper.optimizer.lr


def test_annotations_of_another_folder_of_the_same_name_are_not_overwritten(own, tmp_path):
    written(tmp_path / 'a.py', STUDENT, data=own / 'yolo')
    kept = (tmp_path / 'yolo_coco/train.json').read_bytes()
    other = tmp_path / 'other/yolo'
    shutil.copytree(own / 'yolo', other)
    next((other / 'labels/train').glob('*.txt')).write_text('')
    with pytest.raises(ValueError, match=r'train.json was made from .*own.*other configs may use'):
        write_config(Request(STUDENT, 'alone', tmp_path / 'b.py', data=other))
    assert (tmp_path / 'yolo_coco/train.json').read_bytes() == kept
    assert not (tmp_path / 'b.py').exists()
    # Of the same folder they are brought up to date.
    written(tmp_path / 'c.py', STUDENT, data=own / 'yolo')


def test_pictures_too_small_for_the_filter_are_said(own, tmp_path):
    cfg = written(tmp_path / 'a.py', STUDENT, data=own / 'coco')
    cfg.train_dataloader.dataset.filter_cfg = dict(filter_empty_gt=True, min_size=200)
    report = Report(config='a')
    assert examine_annotations(report, cfg)
    assert any('8 of 8 pictures are smaller than' in finding.what for finding in report.findings)


def refusal(*args, **kwargs):
    with pytest.raises(ValueError) as caught:
        new_config(Request(*args, **kwargs))
    return str(caught.value)


def test_what_does_not_fit_is_refused(own, tmp_path):
    out = tmp_path / 'my.py'
    mask = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
    assert 'learns masks, and --data (YOLO) has boxes only' in refusal(
        mask, 'alone', out, data=own / 'yolo'
    )
    says = refusal(GFL, 'bckd', out, GFL, data=own / 'voc')
    assert 'know 80 classes, and --data has 10: train the teacher' in says
    assert 'is for --data of detectors' in refusal(GFL, 'alone', out, batch_size=4)
    classifier = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'
    says = refusal(classifier, 'alone', out, data=own / 'voc', batch_size=4)
    assert says.startswith('--batch-size 4 is for detectors')
    assert not out.exists()


def test_paths_hold_from_any_working_directory(own, tmp_path, monkeypatch):
    for form in ('coco', 'voc', 'yolo'):
        (tmp_path / form).symlink_to(own / form, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    for form in ('coco', 'yolo'):
        written(Path(f'configs/{form}.py'), STUDENT, data=Path(form), batch=4)
        assert str(tmp_path) not in Path(f'configs/{form}.py').read_text()
    monkeypatch.chdir('/')
    for form in ('coco', 'yolo'):
        cfg = Config.fromfile(tmp_path / 'configs' / f'{form}.py')
        assert Path(cfg.val_evaluator.ann_file).is_file() and Path(cfg.data_root).is_dir()


# ---------------------------------------------------------------- what the check says


def test_the_check_names_faults_of_the_data(own, tmp_path):
    cfg = written(tmp_path / 'my.py', STUDENT, data=own / 'voc', batch=4)
    file = Path(cfg.train_dataloader.dataset.ann_file)
    content = json.loads(file.read_text())
    content['annotations'][0]['bbox'] = [500, 500, 9, 9]
    file.write_text(json.dumps(content))
    report = check(cfg, 1, 0)
    assert [f.level for f in report.findings if 'lie outside' in f.what] == ['warning']
    content['annotations'][1]['id'] = content['annotations'][0]['id']
    file.write_text(json.dumps(content))
    report = check(cfg, 1, 0)
    assert not report.ok and any('are there twice' in f.what for f in report.findings)
    file.write_text('{"images": [],\n"annotations": [,\n')
    report = check(cfg, 1, 0)
    (said,) = report.findings
    assert said.level == 'error' and said.what.startswith(f'{file}, line 2: is no JSON')


@pytest.mark.parametrize('caffe', [False, True])
def test_the_page_shows_pictures_as_they_are_trained(own, tmp_path, caffe):
    cfg = written(tmp_path / 'my.py', STUDENT, data=own / 'coco', batch=4)
    # Caffe's networks take blue first, as files are read.
    cfg.model.data_preprocessor.bgr_to_rgb = not caffe
    flip = dict(type='RandomFlip', prob=1.0)
    cfg.train_dataloader.dataset.pipeline.insert(-1, flip)
    cfg.train_dataloader.sampler.shuffle = False
    pictures = Pictures()
    check(cfg, 2, 0, debug=True, pictures=pictures)
    assert len(pictures.shown) == 8 and pictures.names == CLASSES
    import cv2

    content = json.loads(Path(cfg.train_dataloader.dataset.ann_file).read_text())
    for shown, image in zip(pictures.shown, content['images'], strict=True):
        bgr = cv2.imread(str(own / 'coco/train' / image['file_name']))
        assert np.array_equal(shown.picture, bgr[:, ::-1, ::-1])
        wanted = sorted(
            (128 - x - w, y, 128 - x, y + h, names(content)[t['category_id']])
            for t in content['annotations'] if t['image_id'] == image['id']
            for x, y, w, h in [t['bbox']]
        )  # fmt: skip
        seen = sorted((*box, pictures.names[label]) for box, label in shown.boxes)
        assert [s[4] for s in seen] == [w[4] for w in wanted]
        assert np.allclose([s[:4] for s in seen], [w[:4] for w in wanted], atol=1e-3)
    figure = pictures.draw()
    assert sum(len(axes.patches) for axes in figure.axes) == len(content['annotations'])
    assert {t.get_text() for axes in figure.axes for t in axes.texts} <= set(CLASSES)


def names(content):
    return {each['id']: each['name'] for each in content['categories']}


def test_classifiers_have_a_page_too():
    pictures = Pictures()
    cfg = Config.fromfile(ROOT / 'configs/vanilla/digits_student.py')
    check(cfg, 2, 0, debug=True, pictures=pictures)
    assert len(pictures.shown) == 16 and not pictures.shown[0].boxes
    assert {shown.title for shown in pictures.shown} <= set(CLASSES)
    assert pictures.shown[0].picture.shape == (8, 8, 3)
    assert len([a for a in pictures.draw().axes if a.get_title()]) == 16


def test_from_the_command_line(own, tmp_path, monkeypatch, capsys):
    tool = str(ROOT / 'tools/new_config.py')

    def call(*arguments):
        monkeypatch.setattr(sys, 'argv', ['new_config.py', *map(str, arguments)])
        runpy.run_path(tool, run_name='__main__')

    call('--student', STUDENT, '--method', 'alone', '--data', own / 'voc', '--batch-size', 4,
         '--out', tmp_path / 'my.py')  # fmt: skip
    printed = capsys.readouterr().out
    assert 'VOC, train: 8 pictures' in printed and '10 classes: 0, 1' in printed
    assert 'coordinates were taken to count from 1' in printed
    labels = sorted((own / 'yolo/labels/train').glob('*.txt'))[0]
    whole = labels.read_text()
    labels.write_text(whole + '3 0.5 0.5\n')
    with pytest.raises(SystemExit, match=f'{labels.name}, line {len(whole.splitlines()) + 1}: '):
        call('--student', STUDENT, '--method', 'alone', '--data', own / 'yolo',
             '--out', tmp_path / 'other.py')  # fmt: skip
    labels.write_text(whole)
    assert not (tmp_path / 'other.py').exists()
    with pytest.raises(SystemExit):
        call('--student', STUDENT, '--method', 'alone', '--batch-size', 0, '--out', 'x.py')


def test_the_tutorials_folders_are_of_three_forms(own, tmp_path, monkeypatch):
    """What the page tells to run, on a few scenes."""
    text = (ROOT / 'docs/tutorial_detection.md').read_text()
    (code,) = (part for part in text.split('```')[1::2] if part.startswith('python\n# forms.py'))
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/digit_scenes').symlink_to(own / 'coco', target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    exec(code.removeprefix('python\n'), {})
    found = [read_boxes(Path(name)) for name in ('data/digit_scenes', 'my_voc', 'my_yolo')]
    assert [each.form for each in found] == ['COCO', 'VOC', 'YOLO']
    boxes = [
        np.array([thing['bbox'] for thing in each.train.content['annotations']]) for each in found
    ]
    assert boxes[0].shape == (26, 4) and all(each.classes == CLASSES for each in found)
    assert np.allclose(boxes[1], boxes[0]) and np.allclose(boxes[2], boxes[0], atol=1e-6)


def test_pictures_without_labels_come_beside_those_of_a_detector(own, tmp_path):
    written(tmp_path / 'alone.py', TEACHER, data=own / 'coco')
    cfg = Config.fromfile(tmp_path / 'alone.py')
    init_default_scope('mmdet')
    torch.manual_seed(0)
    teacher = MODELS.build(cfg.model)
    teacher.bbox_head.gfl_cls.bias.data.zero_()
    torch.save(dict(state_dict=teacher.state_dict()), tmp_path / 't.pth')
    folder = tmp_path / 'mine/deep'
    shutil.copytree(own / 'coco/train', folder)
    request = Request(
        STUDENT, 'bckd', tmp_path / 'my.py', TEACHER, str(tmp_path / 't.pth'), own / 'coco', 4,
        unlabelled=tmp_path / 'mine',
    )  # fmt: skip
    write_config(request)
    cfg = Config.fromfile(tmp_path / 'my.py')
    assert cfg.model.pseudo_boxes == dict(score=0.4)
    assert cfg.data_preprocessor.type == 'kd_plugins.DetDataPreprocessor'
    assert cfg.train_dataloader.batch_sampler is None
    steps = [step.type for step in cfg.train_dataloader.dataset.unlabelled.pipeline]
    assert steps == ['kd_plugins.LoadImageFromFile', 'Resize', 'PackDetInputs']
    report = check(cfg, iterations=1, teacher_batches=2, debug=True)
    assert report.data.samples == 16 and report.data.batch_size == 4
    # The untrained teacher is sure of far too much.
    found = report.unlabelled_boxes
    assert (found.samples, found.score, found.none, report.labelled_boxes.mean > 1) == (
        8, 0.4, 0.0, True,
    )  # fmt: skip
    assert 1 < found.mean <= found.most <= 50
    for ratio, says in ((2, r'--unlabelled-ratio 2: .*3 does not divide'), (0, 'ratio=0')):
        with pytest.raises(ValueError, match=says):
            request = Request(
                STUDENT, 'bckd', tmp_path / 'no.py', TEACHER, str(tmp_path / 't.pth'),
                own / 'coco', 4, unlabelled=tmp_path / 'mine', unlabelled_ratio=ratio,
            )  # fmt: skip
            write_config(request)
    with pytest.raises(ValueError, match='which measures the student, have pictures in common'):
        Request(
            STUDENT, 'bckd', tmp_path / 'no.py', TEACHER, 't.pth', own / 'coco', 4,
            unlabelled=own / 'coco/val',
        )  # fmt: skip
    # YOLOX mixes pictures around its dataset, with or without labelled ones beside.
    for ratio in (1, 'all'):
        with pytest.raises(ValueError, match='MultiImageMixDataset, which has no pipeline'):
            yolox = 'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py'
            request = Request(
                yolox, 'bckd', tmp_path / 'no.py', yolox, str(tmp_path / 't.pth'),
                unlabelled=tmp_path / 'mine', unlabelled_ratio=ratio,
            )  # fmt: skip
            write_config(request)
    # Nor do steps that no picture without boxes passes.
    base = Config.fromfile(STUDENT)
    kinds = (
        'mmdet.LoadAnnotations',
        'LoadPanopticAnnotations',
        'RandomAffine',
        'InstaBoost',
        'mmdet.Pad',
    )
    base.train_dataloader.dataset.pipeline[1:1] = [dict(type=kind) for kind in kinds]
    base.dump(tmp_path / 'more_steps.py')
    write_config(
        Request(
            str(tmp_path / 'more_steps.py'), 'bckd', tmp_path / 'steps.py', TEACHER,
            str(tmp_path / 't.pth'), unlabelled=tmp_path / 'mine',
        )
    )  # fmt: skip
    pipeline = Config.fromfile(tmp_path / 'steps.py').train_dataloader.dataset.unlabelled.pipeline
    assert [step.type for step in pipeline] == [steps[0], 'mmdet.Pad', *steps[1:]]
    # A term on maps reads no boxes.
    write_config(
        Request(
            STUDENT, 'pkd', tmp_path / 'maps.py', TEACHER, 't.pth', unlabelled=tmp_path / 'mine'
        )
    )
    assert 'pseudo_boxes' not in Config.fromfile(tmp_path / 'maps.py').model
