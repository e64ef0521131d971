import copy
import hashlib
import os
import runpy
import subprocess
import sys

import pytest
import torch
from helpers import ROOT
from helpers.processes import run_script
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, save_checkpoint
from mmpretrain import get_model

from kd_plugins.files.export_student import build_student, export_student, save
from kd_plugins.shipping import OnnxNetwork

STUDENT = ROOT / 'configs/vanilla/digits_student.py'
DISTILLATION = ROOT / 'configs/ctkd/ctkd_kd_digits.py'


def distillation():
    """A distillation that learns something of its own, as the Runner builds it."""
    cfg = Config.fromfile(DISTILLATION)
    init_default_scope('mmpretrain')
    cfg.model.update(teacher_ckpt=None, allow_random_teacher=True)
    return MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))


def write(path, model, **meta):
    """A checkpoint as the Runner writes it."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    content = dict(state_dict=model.state_dict(), optimizer=optimizer.state_dict(), meta=meta)
    save_checkpoint(content, str(path))


@pytest.mark.parametrize('config', [STUDENT, DISTILLATION], ids=['student', 'distillation'])
def test_leaves_nothing_but_the_student(tmp_path, config):
    model = distillation()
    write(tmp_path / 'last.pth', model, epoch=3, cfg='secret', dataset_meta=dict(classes=('a',)))
    result = export_student(Config.fromfile(config), str(tmp_path / 'last.pth'))
    path = save(result, tmp_path / 'out' / 'student.pth')
    assert set(result) == {'state_dict', 'meta'}
    assert result['meta'] == dict(epoch=3, dataset_meta=dict(classes=('a',)))
    assert not any(key.startswith(('distiller', 'teacher')) for key in result['state_dict'])
    # The stock way of loading it, and the same answers.
    stock = get_model(str(STUDENT), pretrained=str(path)).eval()
    inputs = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = model.architecture.eval()(inputs)
    assert torch.equal(stock(inputs), expected) and expected.any()
    assert stock._dataset_meta == dict(classes=('a',))


def test_takes_the_student_out_of_mmrazors_checkpoint(tmp_path):
    cfg = Config.fromfile(STUDENT)
    init_default_scope('mmpretrain')
    network = dict(cfg.model, data_preprocessor=dict(cfg.data_preprocessor))
    recorders = dict(student_recorders={}, teacher_recorders={}, distill_losses={})
    theirs = MODELS.build(
        dict(
            type='mmrazor.SingleTeacherDistill',
            architecture=copy.deepcopy(network),
            teacher=copy.deepcopy(network),
            distiller=dict(
                type='mmrazor.ConfigurableDistiller', **recorders, loss_forward_mappings={}
            ),
        )
    )
    state = theirs.state_dict()
    assert {'architecture', 'teacher'} == {key.split('.')[0] for key in state}
    save_checkpoint(dict(state_dict=state), str(tmp_path / 'razor.pth'))
    weights = export_student(cfg, str(tmp_path / 'razor.pth'))['state_dict']
    student = theirs.architecture.state_dict()
    assert set(weights) == set(student)
    assert all(torch.equal(weights[key], student[key]) for key in student)
    assert not torch.equal(weights['head.fc.weight'], theirs.teacher.state_dict()['head.fc.weight'])


def test_published_names_carry_the_digest(tmp_path):
    path = save(dict(state_dict=dict(w=torch.ones(2)), meta={}), tmp_path / 'student.pth', True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.name == f'student-{digest[:8]}.pth'
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_an_interrupted_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 'student.pth'
    path.write_bytes(b'old')

    def interrupted(*_):
        assert path.with_name('student.pth.part').stat().st_size > 100
        raise KeyboardInterrupt

    monkeypatch.setattr(os, 'replace', interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(dict(state_dict={}, meta={}), path)
    assert path.read_bytes() == b'old'


def test_other_networks_and_configs_are_refused(tmp_path):
    write(tmp_path / 'last.pth', distillation())
    teacher = Config.fromfile(ROOT / 'configs/vanilla/digits_teacher.py')
    with pytest.raises(ValueError, match=r'checkpoint=.*last\.pth.* does not fit the student'):
        export_student(teacher, str(tmp_path / 'last.pth'))
    with pytest.raises(FileNotFoundError, match=r"checkpoint='gone\.pth' is not a file"):
        export_student(teacher, 'gone.pth')
    with pytest.raises(ValueError, match='has no model'):
        export_student(Config.fromfile(ROOT / 'configs/_base_/default_runtime.py'), 'gone.pth')


def command(*arguments):
    line = [sys.executable, str(ROOT / 'tools/export_student.py'), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True)


def test_from_the_command_line(tmp_path):
    write(tmp_path / 'epoch_3.pth', distillation())
    reply = command(DISTILLATION, tmp_path / 'epoch_3.pth', '--publish', '--onnx', 8, 8)
    assert reply.returncode == 0, reply.stderr
    (path,) = tmp_path.glob('epoch_3_student-????????.pth')
    assert f'wrote {path}' in reply.stdout
    # The config of the distillation tests it, and so does that of the student.
    how = f'test it: python {ROOT}/tools/test.py {DISTILLATION} {path}\n'
    assert how in reply.stdout
    written = path.with_suffix('.onnx')
    assert f'wrote {written}' in reply.stdout and 'any number of normalised' in reply.stdout
    images = torch.randn(4, 1, 8, 8)
    student = get_model(str(STUDENT), pretrained=str(path)).eval()
    expected = student(images).detach().numpy()
    (computed,) = OnnxNetwork(str(written))(images=images)
    assert computed.numpy() == pytest.approx(expected, abs=1e-4)
    assert 'int8' not in reply.stdout
    tool = ROOT / 'tools/export_student.py'
    reply = run_script(tool, DISTILLATION, tmp_path / 'gone.pth')
    assert reply.returncode == 1 and len(reply.stderr.strip().splitlines()) == 1
    reply = run_script(tool, DISTILLATION, path, '--out', path)
    assert reply.returncode == 2 and 'would overwrite the checkpoint' in reply.stderr


SMALL = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='mmpretrain.LeNet5', num_classes=-1),
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(type='mmpretrain.LinearClsHead', num_classes=10, in_channels=120),
)
UPSTREAM = 'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py'  # has 123.675 at its top level


def preprocessor(mean):
    return dict(type='mmpretrain.ClsDataPreprocessor', mean=[mean], std=[2 * mean])


@pytest.mark.parametrize(
    ('architecture', 'top', 'algorithms', 'mean'),
    [
        (dict(SMALL, data_preprocessor=preprocessor(1.0)), preprocessor(2.0), None, 2.0),
        (dict(SMALL, data_preprocessor=preprocessor(1.0)), None, None, 1.0),
        (dict(SMALL, data_preprocessor=preprocessor(1.0)), None, preprocessor(3.0), 3.0),
        (SMALL, preprocessor(2.0), None, 2.0),
        # mmpretrain completes a preprocessor without a type.
        (SMALL, dict(mean=[2.0], std=[4.0]), None, 2.0),
        (
            dict(SMALL, data_preprocessor=preprocessor(1.0)),
            preprocessor(2.0),
            preprocessor(3.0),
            3.0,
        ),
        (dict(cfg_path=UPSTREAM), preprocessor(2.0), None, 2.0),
        (dict(cfg_path=UPSTREAM), None, None, 123.675),
    ],
)
def test_the_preprocessor_is_the_one_that_trains(tmp_path, architecture, top, algorithms, mean):
    model = dict(
        type='kd_plugins.SingleTeacherDistill', architecture=architecture, teacher=SMALL,
        allow_random_teacher=True,
        distiller=dict(type='mmrazor.ConfigurableDistiller', distill_losses={},
                       loss_forward_mappings={}, student_recorders={}, teacher_recorders={}),
    )  # fmt: skip
    if algorithms:
        model['data_preprocessor'] = algorithms
    cfg = Config(dict(model=model, default_scope='mmpretrain', work_dir=str(tmp_path)))
    if top:
        cfg.data_preprocessor = top
    before = copy.deepcopy(cfg.to_dict())
    exported = build_student(cfg)
    assert cfg.to_dict() == before
    trained = Runner.from_cfg(copy.deepcopy(cfg)).model
    said = [m.data_preprocessor.mean.flatten()[0].item() for m in (trained, exported)]
    assert said == [pytest.approx(mean)] * 2
    assert trained.architecture.data_preprocessor is trained.data_preprocessor


@pytest.mark.parametrize('top', [preprocessor(2.0), None])
def test_a_students_own_config_keeps_its_models_preprocessor(tmp_path, top):
    # As the Runner does, which hands down the top level's only where there is none.
    model = dict(SMALL, data_preprocessor=preprocessor(1.0))
    cfg = Config(dict(model=model, default_scope='mmpretrain', work_dir=str(tmp_path)))
    if top:
        cfg.data_preprocessor = top
    trained = Runner.from_cfg(copy.deepcopy(cfg)).model
    said = [m.data_preprocessor.mean.item() for m in (trained, build_student(cfg))]
    assert said == [1.0, 1.0]


def tool(monkeypatch, capsys, *arguments):
    """What the tool prints, and what it exits with, in this process."""
    monkeypatch.setattr(sys, 'argv', ['export_student.py', *map(str, arguments)])
    said = None
    capsys.readouterr()  # upstream says how it begins the weights of what the test itself built
    try:
        runpy.run_path(str(ROOT / 'tools/export_student.py'), run_name='__main__')
    except SystemExit as stopped:
        said = stopped.code
    return capsys.readouterr(), said


def test_int8_beside_the_student_alone_from_the_command_line(tmp_path, monkeypatch, capsys):
    write(tmp_path / 'last.pth', distillation())
    torch.manual_seed(7)
    init_default_scope('mmpretrain')
    write(tmp_path / 'alone.pth', build_student(Config.fromfile(STUDENT)))
    printed, said = tool(
        monkeypatch, capsys, DISTILLATION, tmp_path / 'last.pth', '--out', tmp_path / 's.pth',
        '--onnx', '--int8', 20, '--alone', tmp_path / 'alone.pth',
    )  # fmt: skip
    assert said is None
    lines = printed.out.splitlines()
    assert f'wrote {tmp_path}/s.onnx' in lines[2] and 'pictures of 8 x 8;' in lines[2]
    assert f'wrote {tmp_path}/s_int8.onnx' in lines[3] and 'on 20 training pictures' in lines[3]
    assert [line.split()[0] for line in lines[5:]] == [
        'accuracy/top1',
        'student',
        'alone',
        'gained',
    ]
    assert lines[5].split()[1:] == ['float32', 'int8', 'lost']
    assert {file.name for file in tmp_path.iterdir()} == {
        'last.pth', 'alone.pth', 's.pth', 's.onnx', 's_int8.onnx'
    }  # fmt: skip


def test_a_detector_from_the_command_line(tmp_path, monkeypatch, capsys):
    from helpers.shipping import scenes, varied

    config = tmp_path / 'scenes.py'
    cfg = scenes(64)
    cfg.model.test_cfg.score_thr = 1e-3
    cfg.dump(config)
    content = dict(state_dict=varied(build_student(cfg)).state_dict())
    save_checkpoint(content, str(tmp_path / 'last.pth'))
    arguments = (config, tmp_path / 'last.pth', '--onnx')
    printed, said = tool(monkeypatch, capsys, *arguments)
    assert said is None
    assert f'wrote {tmp_path}/last_student.onnx' in printed.out
    assert 'any number of normalised pictures of any size' in printed.out
    assert 'detections of 3 validation pictures to' in printed.out
    (tmp_path / 'last_student.onnx').unlink()
    options = ('--cfg-options', 'model.test_cfg.score_thr=0.9999')
    printed, said = tool(monkeypatch, capsys, *arguments, *options)
    assert said.endswith(
        'finds nothing in the validation pictures, so there is nothing to compare.'
    )
    assert not (tmp_path / 'last_student.onnx').exists()


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        (('--onnx', 8), '--onnx 8: give a height and a width, or none'),
        (('--onnx', 8, 0), '--onnx 8 0: give a height and a width'),
        (('--raw-outputs',), '--raw-outputs and --int8 are of the file that --onnx writes'),
        (('--int8',), '--raw-outputs and --int8 are of the file that --onnx writes'),
        (('--onnx', '--int8', '--raw-outputs'), 'detections, which --raw-outputs has not'),
        (('--onnx', '--int8', 0), '--int8 needs a picture or more'),
        (('--onnx', '--alone', 'a.pth'), '--alone is measured beside --int8'),
    ],
)
def test_options_that_say_nothing_are_refused(monkeypatch, capsys, arguments, says):
    printed, said = tool(monkeypatch, capsys, STUDENT, 'x.pth', *arguments)
    assert said == 2 and says in printed.err
