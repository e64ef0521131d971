import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import ROOT, detection
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from kd_plugins.inspect.check import check
from kd_plugins.networks import build_network, resolve_network
from kd_plugins.new_config.methods import METHODS
from kd_plugins.new_config.writing import Pair, classifier, new_config

R18 = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
R34 = 'mmpretrain::resnet/resnet34_8xb16_cifar10.py'
STUDENT = str(ROOT / 'configs/vanilla/digits_student.py')
TEACHER = str(ROOT / 'configs/vanilla/digits_teacher.py')
DENSE = 'mmdet::gfl/gfl_r50_fpn_1x_coco.py'
ON_LOGITS = ['kd', 'dkd', 'ctkd', 'dot']


def written(pair, method, path):
    path.write_text(new_config(pair, method, path))
    return Config.fromfile(path)


@pytest.fixture(scope='module')
def ckpt(tmp_path_factory):
    network, _ = resolve_network(dict(cfg_path=TEACHER), 'teacher')
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('teacher') / 'teacher.pth'
    torch.save(dict(state_dict=build_network(network, 'teacher').state_dict()), path)
    return str(path)


@pytest.mark.parametrize('method', ON_LOGITS)
def test_what_is_written_trains(tmp_path, ckpt, method):
    cfg = written(Pair(STUDENT, TEACHER, ckpt), method, tmp_path / 'my.py')
    report = check(cfg, iterations=2, teacher_batches=0)
    assert report.ok and report.findings == []
    assert report.student.parameters == 10978 and report.teacher.parameters == 174970
    assert {read.source for read in report.terms[0].reads} >= {'student.head.fc', 'teacher.head.fc'}
    expected = 'DOTSGD in DOTOptimWrapper' if method == 'dot' else 'SGD in OptimWrapper'
    assert report.optimizer == expected
    assert cfg.train_dataloader.dataset.type == 'kd_plugins.Digits'


@pytest.mark.parametrize('method', [name for name, m in METHODS.items() if m.dense])
def test_what_is_written_for_detectors_trains(tmp_path, method):
    paths = [str(ROOT / f'configs/vanilla/gfl_scenes_{who}.py') for who in ('student', 'teacher')]
    network, _ = resolve_network(dict(cfg_path=paths[1]), 'teacher')
    ckpt = tmp_path / 'teacher.pth'
    torch.save(dict(state_dict=build_network(network, 'teacher').state_dict()), ckpt)
    cfg = written(Pair(*paths, str(ckpt)), method, tmp_path / 'my.py')
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model).train()
    data = model.data_preprocessor(detection.images(), True)
    losses = model(**data, mode='loss')
    mine = {name.removeprefix('distill.') for name in losses if name.startswith('distill.loss')}
    assert mine == set(METHODS[method].terms)
    total, _ = model.parse_losses(losses)
    total.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_training_keeps_what_happened_and_the_hooks_of_the_student(tmp_path):
    student = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
    cfg = written(Pair(student, student), 'bckd', tmp_path / 'my.py')
    hooks = {name: hook['type'] for name, hook in cfg.default_hooks.items()}
    ours = {name for name in hooks.values() if name.startswith('kd_plugins.')}
    assert ours == {
        f'kd_plugins.{name}Hook'
        for name in (
            'SafeCheckpoint', 'DistillationGuard', 'DistillationLog', 'Environment',
            'SeedByProgress',
        )
    }  # fmt: skip
    assert hooks['visualization'] == 'DetVisualizationHook'
    assert [hook.type for hook in cfg.custom_hooks] == ['EMAHook', 'PipelineSwitchHook']
    assert cfg.randomness.seed == 0


def test_the_text_says_how_to_use_it_and_is_short(tmp_path, ckpt):
    path = tmp_path / 'sub' / 'my.py'
    text = new_config(Pair(STUDENT, TEACHER, ckpt), 'dkd', path)
    assert text.startswith(f'# python tools/check.py {path}\n# python tools/train.py {path}\n')
    assert len(text.splitlines()) < 45 and '\t' not in text
    compile(text, 'my.py', 'exec')


def test_a_teacher_without_a_checkpoint_gets_the_listed_weights(tmp_path):
    cfg = written(Pair(R18, R34), 'kd', tmp_path / 'my.py')
    assert cfg.model.teacher.pretrained is True and 'teacher_ckpt' not in cfg.model


def picture_folders(root, classes=('cat', 'dog', 'owl'), splits=('train', 'val')):
    generator = np.random.default_rng(0)
    for split in splits:
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(4):
                image = generator.integers(0, 255, (40, 40, 3), dtype=np.uint8)
                cv2.imwrite(str(root / split / name / f'{i}.png'), image)
    return root


def test_folders_of_pictures_take_the_place_of_the_data(tmp_path):
    data = picture_folders(tmp_path / 'pictures')
    small = 'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py'
    alone = written(Pair(small, data=data), 'alone', tmp_path / 'alone.py')
    assert alone.model.head.num_classes == 3 and alone.model.type == 'ImageClassifier'
    init_default_scope('mmpretrain')
    teacher = MODELS.build(alone.model)
    torch.save(dict(state_dict=teacher.state_dict()), tmp_path / 't.pth')
    pair = Pair(small, small, str(tmp_path / 't.pth'), data)
    cfg = written(pair, 'dkd', tmp_path / 'dkd.py')
    for loader, batch in ((cfg.train_dataloader, 4), (cfg.val_dataloader, 12)):
        loader.update(batch_size=batch, num_workers=0, persistent_workers=False)
        for step in loader.dataset.pipeline:
            # Small pictures: it is not about what the network sees.
            for key in ('scale', 'crop_size'):
                if key in step:
                    step[key] = 32
    report = check(cfg, iterations=1, teacher_batches=1)
    assert report.data.samples == 12 and report.data.classes == 3
    assert report.student.classes == report.teacher.classes == 3
    assert list(report.teacher_metrics) == ['accuracy/top1'] and report.teacher_samples == 12
    assert not any('class' in f.what for f in report.findings)


def test_pictures_are_loaded_where_the_base_has_them_in_memory(tmp_path):
    data = picture_folders(tmp_path / 'pictures')
    cfg = written(Pair(R18, data=data), 'alone', tmp_path / 'my.py')
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        types = [step.type for step in loader.dataset.pipeline]
        assert types.count('LoadImageFromFile') == 1 and types[0] == 'LoadImageFromFile'
        assert types[-1] == 'PackInputs'
    other = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'
    cfg = written(Pair(other, data=data), 'alone', tmp_path / 'other.py')
    types = [step.type for step in cfg.train_dataloader.dataset.pipeline]
    assert types.count('LoadImageFromFile') == 1


@pytest.mark.parametrize(
    'splits, classes', [(('train',), ('a', 'b')), (('train', 'val'), ('a',)), ((), ())]
)
def test_folders_that_are_no_classes_are_refused(tmp_path, splits, classes):
    picture_folders(tmp_path, classes, splits)
    with pytest.raises(ValueError, match=r'--data .* needs the same two or more folders'):
        Pair(R18, data=tmp_path)


def test_classifiers_are_found_in_heads_of_other_kinds():
    for path, name in (
        (R18, 'head.fc'),
        ('mmpretrain::deit/deit-tiny_4xb256_in1k.py', 'head.layers.head'),
        ('mmpretrain::mobilenet_v3/mobilenet-v3-small_8xb128_in1k.py', 'head.layers.1.fc'),
    ):
        network, _ = resolve_network(dict(cfg_path=path), 'student')
        found, _ = classifier(build_network(network, 'student'))
        assert found == name


def test_pairs_that_do_not_fit_are_refused(tmp_path):
    out = tmp_path / 'my.py'
    with pytest.raises(
        ValueError, match=r'--student .*digits.* has 10 classes and --teacher .* 100'
    ):
        new_config(Pair(STUDENT, 'mmpretrain::resnet/resnet50_8xb16_cifar100.py'), 'kd', out)
    with pytest.raises(
        ValueError, match=r'--method bckd is for two dense detectors, but --student'
    ):
        new_config(Pair(STUDENT, TEACHER), 'bckd', out)
    with pytest.raises(ValueError, match=r'--method kd is for two classifiers.*GFL \(dense det'):
        new_config(Pair(STUDENT, DENSE), 'kd', out)
    two_stage = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
    with pytest.raises(ValueError, match=r'FasterRCNN \(neither classifier nor dense detector\)'):
        new_config(Pair(two_stage, DENSE), 'bckd', out)
    with pytest.raises(ValueError, match='--method alone and --teacher'):
        new_config(Pair(STUDENT, TEACHER), 'alone', out)
    with pytest.raises(ValueError, match='--method kd and --teacher None'):
        new_config(Pair(STUDENT), 'kd', out)


def test_methods_on_logits_are_all_tried():
    assert set(ON_LOGITS) == {k for k, m in METHODS.items() if not m.dense} - {'alone'}


def command(*arguments):
    line = [sys.executable, str(ROOT / 'tools/new_config.py'), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True)


def test_from_the_command_line(tmp_path):
    out = tmp_path / 'configs' / 'my.py'
    given = ['--student', STUDENT, '--method', 'kd', '--out', out]
    reply = command(*given, '--teacher', TEACHER, '--teacher-ckpt', 't.pth')
    assert reply.returncode == 0, reply.stderr
    assert reply.stdout == f'wrote {out}; next: python tools/check.py {out}\n'
    base = re.search(r"_base_ = \['(.+)'\]", out.read_text()).group(1)
    assert (out.parent / base).resolve() == Path(STUDENT)
    reply = command(*given, '--teacher', TEACHER)
    assert reply.returncode == 2 and 'exists: give another name' in reply.stderr
    out.unlink()
    reply = command(*given, '--teacher', 'gone.py')
    assert reply.returncode == 2 and "--teacher 'gone.py' is no file" in reply.stderr
    assert not out.exists()
