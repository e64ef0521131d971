import os
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import ROOT, detection
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope

from kd_plugins.inspect.check import check
from kd_plugins.networks import build_network, classifier, resolve_network
from kd_plugins.new_config import writing
from kd_plugins.new_config.methods import CLASSIFICATION, DETECTION, Method, methods
from kd_plugins.new_config.python import Code, as_python, statement
from kd_plugins.new_config.request import Request
from kd_plugins.new_config.writing import new_config, write_config
from kd_plugins.wiring.terms import TERMS

R18 = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
R34 = 'mmpretrain::resnet/resnet34_8xb16_cifar10.py'
STUDENT = str(ROOT / 'configs/vanilla/digits_student.py')
TEACHER = str(ROOT / 'configs/vanilla/digits_teacher.py')
DENSE = 'mmdet::gfl/gfl_r50_fpn_1x_coco.py'
METHODS = methods()


def for_task(task):
    return pytest.mark.parametrize('method', [k for k, m in METHODS.items() if m.task == task])


def written(path, student, method, teacher=None, ckpt=None, data=None):
    write_config(Request(student, method, path, teacher, ckpt, data))
    return Config.fromfile(path)


def refusal(*args, **kwargs):
    """What the request of a config is refused with."""
    with pytest.raises(ValueError) as caught:
        new_config(Request(*args, **kwargs))
    return str(caught.value)


@pytest.fixture(scope='module')
def ckpt(tmp_path_factory):
    network, _ = resolve_network(dict(cfg_path=TEACHER), 'teacher')
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('teacher') / 'teacher.pth'
    torch.save(dict(state_dict=build_network(network, 'teacher').state_dict()), path)
    return str(path)


@for_task(CLASSIFICATION)
def test_what_is_written_trains(tmp_path, ckpt, method):
    cfg = written(tmp_path / 'my.py', STUDENT, method, TEACHER, ckpt)
    report = check(cfg, iterations=2, teacher_batches=0)
    assert report.ok and report.findings == []
    assert report.student.parameters == 10978 and report.teacher.parameters == 174970
    assert {read.source for read in report.terms[0].reads} >= {'student.head.fc', 'teacher.head.fc'}
    expected = 'DOTSGD in DOTOptimWrapper' if method == 'dot' else 'SGD in OptimWrapper'
    assert report.optimizer == expected
    assert cfg.train_dataloader.dataset.type == 'kd_plugins.Digits'


@for_task(DETECTION)
def test_what_is_written_for_detectors_trains(tmp_path, method):
    paths = [str(ROOT / f'configs/vanilla/gfl_scenes_{who}.py') for who in ('student', 'teacher')]
    network, _ = resolve_network(dict(cfg_path=paths[1]), 'teacher')
    ckpt = tmp_path / 'teacher.pth'
    torch.save(dict(state_dict=build_network(network, 'teacher').state_dict()), ckpt)
    cfg = written(tmp_path / 'my.py', paths[0], method, paths[1], str(ckpt))
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model).train()
    data = model.data_preprocessor(detection.images(), True)
    losses = model(**data, mode='loss')
    mine = {name.removeprefix('distill.') for name in losses if name.startswith('distill.loss')}
    assert mine == set(METHODS[method].distill_losses)
    total, _ = model.parse_losses(losses)
    total.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_training_keeps_what_happened_and_the_hooks_of_the_student(tmp_path):
    student = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
    cfg = written(tmp_path / 'my.py', student, 'bckd', student)
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
    text = new_config(Request(STUDENT, 'dkd', path, TEACHER, ckpt))
    assert text.startswith(f'# python tools/check.py {path}\n# python tools/train.py {path}\n')
    lines = [line for line in text.splitlines() if not line.startswith('# ')]  # these have a path
    assert len(lines) < 50 and max(map(len, lines)) <= 100
    compile(text, 'my.py', 'exec')


def test_a_teacher_without_a_checkpoint_gets_the_listed_weights(tmp_path):
    cfg = written(tmp_path / 'my.py', R18, 'kd', R34)
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
    alone = written(tmp_path / 'alone.py', small, 'alone', data=data)
    assert alone.model.head.num_classes == 3 and alone.model.type == 'ImageClassifier'
    init_default_scope('mmpretrain')
    teacher = MODELS.build(alone.model)
    torch.save(dict(state_dict=teacher.state_dict()), tmp_path / 't.pth')
    cfg = written(tmp_path / 'dkd.py', small, 'dkd', small, str(tmp_path / 't.pth'), data)
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
    cfg = written(tmp_path / 'my.py', R18, 'alone', data=data)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        types = [step.type for step in loader.dataset.pipeline]
        # CIFAR's pictures in memory are RGB, and the preprocessor does not swap.
        assert loader.dataset.pipeline[0] == dict(
            type='kd_plugins.LoadImageFromFile', channel_order='rgb'
        )
        assert sum('LoadImage' in kind for kind in types) == 1 and types[-1] == 'PackInputs'
    other = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'
    cfg = written(tmp_path / 'other.py', other, 'alone', data=data)
    types = [step.type for step in cfg.train_dataloader.dataset.pipeline]
    assert types.count('LoadImageFromFile') == 1


@pytest.mark.parametrize(
    'splits, classes', [(('train',), ('a', 'b')), (('train', 'val'), ('a',)), ((), ())]
)
def test_folders_that_are_no_classes_are_refused(tmp_path, splits, classes):
    picture_folders(tmp_path, classes, splits)
    with pytest.raises(ValueError, match=r'--data .* needs the same two or more folders'):
        Request(R18, 'alone', tmp_path / 'my.py', data=tmp_path)


def test_classifiers_are_found_in_heads_of_other_kinds():
    for path, name in (
        (R18, 'head.fc'),
        ('mmpretrain::deit/deit-tiny_4xb256_in1k.py', 'head.layers.head'),
        ('mmpretrain::mobilenet_v3/mobilenet-v3-small_8xb128_in1k.py', 'head.layers.1.fc'),
    ):
        network, _ = resolve_network(dict(cfg_path=path), 'student')
        found, _ = classifier(build_network(network, 'student'))
        assert found == name


def test_networks_that_do_not_fit_are_refused(tmp_path, ckpt):
    out = tmp_path / 'my.py'
    other = 'mmpretrain::resnet/resnet50_8xb16_cifar100.py'
    says = refusal(STUDENT, 'kd', out, other)
    assert says.startswith(f"--student '{STUDENT}' has 10 classes and --teacher '{other}' has 100:")
    says = refusal(STUDENT, 'bckd', out, TEACHER, ckpt)
    assert says.startswith('--method bckd is for two dense detectors, but --student')
    assert 'GFL (dense detector)' in refusal(STUDENT, 'kd', out, DENSE)
    two_stage = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
    says = refusal(two_stage, 'bckd', out, DENSE)
    assert 'FasterRCNN (two-stage detector) and' in says
    assert refusal(STUDENT, 'alone', out, TEACHER).startswith('--method alone and --teacher')
    assert refusal(STUDENT, 'kd', out).startswith('--method kd and --teacher None')


def test_weights_that_no_training_could_load_are_refused(tmp_path):
    out = tmp_path / 'my.py'
    assert refusal(STUDENT, 'kd', out, TEACHER).endswith('lists weights: give --teacher-ckpt.')
    unlisted = 'mmpretrain::resnet/resnet50_8xb32-coslr-preciseBN_in1k.py'
    assert 'mmpretrain lists no weights for it' in refusal(unlisted, 'kd', out, unlisted)
    data = picture_folders(tmp_path / 'pictures')
    says = refusal(R18, 'kd', out, R34, data=data)
    assert 'know 10 classes, and --data has 3: train the teacher' in says


@pytest.mark.parametrize('method', ['alone', 'bckd'])
def test_pictures_of_classes_are_for_classifiers(tmp_path, method):
    data = picture_folders(tmp_path / 'pictures')
    teacher = None if method == 'alone' else DENSE
    says = refusal(DENSE, method, tmp_path / 'my.py', teacher, data=data)
    assert says.startswith(f'--data {str(data)!r} has no boxes: give a COCO folder')


@pytest.mark.parametrize('folder', ['configs', 'link'])
def test_paths_hold_from_any_working_directory(tmp_path, ckpt, monkeypatch, folder):
    for name in ('mine', 'configs', 'elsewhere/deep'):
        (tmp_path / name).mkdir(parents=True)
    # A folder from which `..` leads elsewhere.
    (tmp_path / 'link').symlink_to(tmp_path / 'elsewhere/deep', target_is_directory=True)
    for name, source in (('student', STUDENT), ('teacher', TEACHER)):
        Config.fromfile(source).dump(tmp_path / 'mine' / f'{name}.py')
    (tmp_path / 'teacher.pth').write_bytes(Path(ckpt).read_bytes())
    monkeypatch.chdir(tmp_path)
    out = Path(folder) / 'my.py'
    write_config(Request('mine/student.py', 'kd', out, 'mine/teacher.py', 'teacher.pth'))
    assert (str(tmp_path) in out.read_text()) == (folder == 'link')
    out = out.absolute()
    init_default_scope('mmpretrain')
    for working in (tmp_path / 'mine', tmp_path.parent):
        monkeypatch.chdir(working)
        cfg = Config.fromfile(out)
        assert cfg.train_dataloader.dataset.type == 'kd_plugins.Digits'
        for path in (cfg.model.architecture.cfg_path, cfg.model.teacher.cfg_path):
            assert Path(path).resolve().parent == tmp_path / 'mine'
        assert Path(cfg.model.teacher_ckpt).resolve() == tmp_path / 'teacher.pth'
        MODELS.build(cfg.model)


def test_a_folder_of_pictures_is_found_from_any_working_directory(tmp_path, monkeypatch):
    picture_folders(tmp_path / 'pictures')
    (tmp_path / 'configs').mkdir()
    monkeypatch.chdir(tmp_path)
    cfg = written(Path('configs/my.py'), R18, 'alone', data=Path('pictures'))
    monkeypatch.chdir('/')
    assert (Path(cfg.train_dataloader.dataset.data_root) / 'train' / 'owl').is_dir()


def test_what_builds_no_model_is_not_written(tmp_path, ckpt, monkeypatch):
    term = dict(type='kd_plugins.KDLoss', tau=0.0)
    broken = dict(broken=Method(CLASSIFICATION, dict(loss_kd=term)))
    monkeypatch.setattr(writing, 'methods', lambda: broken)
    with pytest.raises(ValueError, match='tau'):
        write_config(Request(STUDENT, 'broken', tmp_path / 'my.py', TEACHER, ckpt))
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_needs_more_than_is_known_is_refused(tmp_path, ckpt, monkeypatch):
    srrl = dict(srrl=Method(CLASSIFICATION, dict(loss_srrl=dict(type='kd_plugins.SRRLLoss'))))
    monkeypatch.setattr(writing, 'methods', lambda: srrl)
    says = refusal(STUDENT, 'srrl', tmp_path / 'my.py', TEACHER, ckpt)
    assert says.startswith('kd_plugins.SRRLLoss needs weight_T, of which this tool')


def test_values_are_written_as_they_are_and_fit_the_page():
    value = dict(
        short=dict(a=1, b='x'), empty={}, none=None, numbers=[1, 2.5, (3,)], long=['word'] * 30,
        deep=dict(list=[dict(name='a' * 40, value='b' * 40)] * 2), odd={'a.b': 1, 'c': [True]},
    )  # fmt: skip
    text = statement('value', value)
    assert max(map(len, text.splitlines())) <= 100 and "    short=dict(a=1, b='x'),\n" in text
    scope = {}
    exec(text, scope)
    assert scope['value'] == value
    assert as_python(dict(a=Code('b.c'))) == 'dict(a=b.c)'
    # A comma that follows has its place too.
    for letters in (70, 82, 83, 84):
        text = statement('value', dict(key=dict(name='x' * letters), other=['y' * 60]))
        assert max(map(len, text.splitlines())) <= 100


def types_in(value):
    """All the types that a config names, at any depth."""
    if isinstance(value, dict):
        return {value.get('type')}.union(*map(types_in, value.values()))
    return set().union(*map(types_in, value)) if isinstance(value, list | tuple) else set()


@pytest.mark.parametrize('method', METHODS)
def test_a_folder_offers_what_its_configs_train_with(method):
    offered = METHODS[method]
    named = types_in([dict(offered.distill_losses), dict(offered.settings)]) - {None}
    if offered.term:
        named.add(TERMS[offered.term].type)
    trained = set()
    for path in (ROOT / 'configs' / method).glob('*.py'):
        trained |= types_in(Config.fromfile(path).to_dict())
    if method == 'ld':
        # mmdet's own head has the loss inside, with these numbers.
        head = Config.fromfile(ROOT / 'configs/ld/ld_gfl_r101_r50_fpn_1x_coco.py').model.bbox_head
        assert (head.loss_ld.T, head.loss_ld.loss_weight) == (10, 0.25)
        assert dict(offered.distill_losses['loss_ld'], type=None) == dict(
            type=None, tau=10.0, loss_weight=0.25
        )
        return
    assert named and named <= trained


@pytest.mark.parametrize(
    'says', ['{Task: Segmentation, distill_losses: {a: b}}', '{Task: Image Classification}']
)
def test_a_folder_that_says_no_method_is_named(tmp_path, says):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine/metafile.yml').write_text(f'Collections:\n  - New Config: {says}\n')
    with pytest.raises(ValueError, match=r'mine/metafile.yml: New Config has Task='):
        methods(tmp_path)


@pytest.fixture
def tool(monkeypatch):
    """Run the tool in this process; return what it exits with."""

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['new_config.py', *map(str, arguments)])
        try:
            runpy.run_path(str(ROOT / 'tools/new_config.py'), run_name='__main__')
        except SystemExit as error:
            return error.code
        return 0

    return run


def test_from_the_command_line(tmp_path, monkeypatch, capsys, tool):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / 'configs' / 'my.py'
    given = ['--student', STUDENT, '--method', 'kd', '--out', out]
    assert tool(*given, '--teacher', TEACHER, '--teacher-ckpt', 't.pth') == 0
    assert f'wrote {out}; next: python {ROOT}/tools/check.py {out}\n' in capsys.readouterr().out
    assert sorted(os.listdir(out.parent)) == ['my.py']
    assert Config.fromfile(out).model.teacher_ckpt == f'{tmp_path}/configs/../t.pth'
    assert tool(*given, '--teacher', TEACHER) == 2
    assert 'exists: give another name' in capsys.readouterr().err
    out.unlink()
    assert tool(*given, '--teacher', 'gone.py') == 2
    assert "--teacher 'gone.py' is no file" in capsys.readouterr().err
    assert '--teacher None' in tool(*given)
    assert not out.exists()


# --- pictures without labels


def unlabelled_folder(root, count=6):
    generator = np.random.default_rng(1)
    (root / 'any' / 'depth').mkdir(parents=True)
    for i in range(count):
        image = generator.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        cv2.imwrite(str(root / 'any' / 'depth' / f'{i}.PNG'), image)
    (root / 'notes.txt').write_text('no picture')
    return root


def small(cfg, batch):
    """The same with small pictures and batches: it is not about what the network sees."""
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(batch_size=batch, num_workers=0, persistent_workers=False)
        datasets = [loader.dataset.get(key) for key in ('labelled', 'unlabelled')]
        for dataset in [each for each in datasets if each] or [loader.dataset]:
            for step in dataset.pipeline:
                for key in ('scale', 'crop_size'):
                    if key in step:
                        step[key] = 32
    if 'labelled' in cfg.train_dataloader.dataset:
        cfg.train_dataloader.sampler.batch_size = batch
    return cfg


SMALL = 'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py'


def teacher_for(tmp_path, data):
    alone = written(tmp_path / 'alone.py', SMALL, 'alone', data=data)
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    torch.save(dict(state_dict=MODELS.build(alone.model).state_dict()), tmp_path / 't.pth')
    return str(tmp_path / 't.pth')


def test_unlabelled_pictures_come_beside_the_labelled_or_in_their_place(tmp_path):
    data = picture_folders(tmp_path / 'pictures')
    ckpt, folder = teacher_for(tmp_path, data), unlabelled_folder(tmp_path / 'mine')
    for name, more, size in (('beside', dict(unlabelled_ratio=3), 18), ('all', {}, 6)):
        if name == 'all':
            (data / 'train').rename(tmp_path / 'elsewhere')
        out = tmp_path / f'{name}.py'
        write_config(Request(SMALL, 'kd', out, SMALL, ckpt, data, unlabelled=folder, **more))
        cfg = Config.fromfile(out)
        assert cfg.data_preprocessor.type == 'kd_plugins.ClsDataPreprocessor'
        assert cfg.data_preprocessor.num_classes == 3
        if name == 'beside':
            assert cfg.train_dataloader.sampler.source_ratio == [1, 3]
            assert cfg.train_dataloader.sampler.batch_size == cfg.train_dataloader.batch_size == 32
        report = check(small(cfg, 8), iterations=1, teacher_batches=1, debug=True)
        assert report.data.samples == size
        terms = [loss for loss in report.losses if loss.startswith('student.')]
        assert terms == ([] if name == 'all' else ['student.loss'])
        assert report.terms[0].gradient > 0
        assert 0 < report.unlabelled.confidence < 1 and report.unlabelled.samples > 0


def test_pictures_that_measure_do_not_train(tmp_path):
    data = picture_folders(tmp_path / 'pictures')
    for folder in (data, data / 'val', data / 'val' / 'cat', tmp_path):
        with pytest.raises(ValueError, match=r'/val., which measures the student, have pict'):
            Request(SMALL, 'kd', tmp_path / 'my.py', SMALL, 't.pth', data, unlabelled=folder)
    Request(SMALL, 'kd', tmp_path / 'my.py', SMALL, 't.pth', data, unlabelled=data / 'train')


def test_without_labels_the_training_set_names_the_classes_of_the_validation(tmp_path):
    data = picture_folders(tmp_path / 'pictures', splits=('val',))
    folder, out = unlabelled_folder(tmp_path / 'mine'), tmp_path / 'my.py'
    # The networks are built and no weights are loaded.
    write_config(Request(SMALL, 'kd', out, SMALL, 't.pth', data, unlabelled=folder))
    dataset = Config.fromfile(out).train_dataloader.dataset
    init_default_scope('mmpretrain')
    assert DATASETS.build(dataset).metainfo['classes'] == ['cat', 'dog', 'owl']


def test_a_preprocessor_inside_of_a_model_keeps_its_normalisation(tmp_path):
    base = Config.fromfile(ROOT / 'configs/vanilla/digits_student.py')
    base.model.data_preprocessor = dict(base.pop('data_preprocessor', {}), mean=[7.0], std=[3.0])
    base.model.data_preprocessor.pop('num_classes', None)
    base.dump(tmp_path / 'base.py')
    data = picture_folders(tmp_path / 'pictures')
    folder, path = unlabelled_folder(tmp_path / 'mine'), str(tmp_path / 'base.py')
    for name, more in (('data', {}), ('both', dict(unlabelled=folder))):
        out = tmp_path / f'{name}.py'
        write_config(Request(path, 'kd', out, path, 't.pth', data, **more))
        cfg = Config.fromfile(out)
        assert (cfg.data_preprocessor.mean, cfg.data_preprocessor.std) == ([7.0], [3.0])
        assert cfg.data_preprocessor.num_classes == 3


def test_unlabelled_pictures_come_beside_the_data_of_the_student(tmp_path, ckpt):
    folder = unlabelled_folder(tmp_path / 'mine')
    out = tmp_path / 'my.py'
    write_config(Request(R18, 'kd', out, R34, unlabelled=folder))
    cfg = Config.fromfile(out)
    dataset = cfg.train_dataloader.dataset
    assert (dataset.labelled.type, dataset.unlabelled.with_label) == ('CIFAR10', False)
    assert dataset.unlabelled.pipeline[0].channel_order == 'rgb'
    assert [step.type for step in dataset.labelled.pipeline] == [
        step.type for step in dataset.unlabelled.pipeline[2:]
    ]
    # A photograph is seen whole, not a corner of it.
    halves = np.zeros((60, 90, 3), dtype=np.uint8)
    halves[:, 45:] = 255
    cv2.imwrite(str(folder / 'any' / 'depth' / '0.PNG'), halves)
    init_default_scope('mmpretrain')
    seen = DATASETS.build(dataset.unlabelled)[0]['inputs'].float()
    assert seen.shape == (3, 32, 32) and 0.3 < (seen > 127).float().mean() < 0.7


def test_unlabelled_pictures_that_fit_nothing_are_refused(tmp_path, ckpt):
    folder, out = unlabelled_folder(tmp_path / 'mine'), tmp_path / 'my.py'
    (tmp_path / 'empty').mkdir()

    def says(method='kd', teacher=TEACHER, folder=folder, **more):
        given = None if teacher is None else ckpt
        return refusal(STUDENT, method, out, teacher, given, unlabelled=folder, **more)

    assert 'holds no pictures (.jpg' in says(folder=tmp_path / 'empty')
    assert "/no' is no folder: give one with pictures" in says(folder=tmp_path / 'no')
    # As the data set finds them, a link to a folder is a folder.
    (tmp_path / 'links').mkdir()
    (tmp_path / 'links' / 'mine').symlink_to(folder)
    Request(STUDENT, 'kd', out, TEACHER, ckpt, unlabelled=tmp_path / 'links')
    assert '--method alone has none: give --teacher' in says('alone', None)
    assert says('dkd').startswith('--method dkd needs labels (kd_plugins.DKDLoss), and the')
    assert says('dot', unlabelled_ratio='all').startswith('--method dot keeps the gradient of')
    assert "cwd compares maps, which teaches the student's head nothing, and without" in says(
        'cwd', unlabelled_ratio='all'
    )
    assert 'nothing teaches the student classes' in says('ld', unlabelled_ratio='all')
    assert 'have 32 pictures, which 3 does not divide' in says(unlabelled_ratio=2)
    with pytest.raises(ValueError, match=r'^--unlabelled is for classifiers and .* is a RPN\.$'):
        rpn = 'mmdet::rpn/rpn_r50_fpn_1x_coco.py'
        Request(rpn, 'bckd', out, DENSE, unlabelled=folder)
    assert '--unlabelled-ratio=0 is wrong: give a whole number, or all' in says(unlabelled_ratio=0)
