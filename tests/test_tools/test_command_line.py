"""The tools as a user starts them, in processes of their own."""

import argparse
import importlib.util
import json
import os
import re
import runpy
import subprocess
import sys

import pytest
import torch
from helpers import ROOT
from helpers.processes import free_port, run_on_two_ranks, run_script
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, save_checkpoint

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins import launch

TINY = [
    'train_dataloader.dataset.indices=96',
    'val_dataloader.dataset.indices=64',
    'test_dataloader.dataset.indices=64',
    'train_cfg.max_epochs=1',
    'train_cfg.val_interval=1',
]
RANDOM_TEACHER = ['model.teacher_ckpt=None', 'model.allow_random_teacher=True']
KD = str(ROOT / 'configs/kd/kd_digits.py')
STUDENT = str(ROOT / 'configs/vanilla/digits_student.py')
TEACHER = str(ROOT / 'configs/vanilla/digits_teacher.py')


def run(*command, cwd, ok=True):
    """Run a command; return what it printed on both streams."""
    environment = dict(os.environ, OMP_NUM_THREADS='1', PYTHON=sys.executable, PORT=free_port())
    folder = os.path.dirname(sys.executable)
    environment['PATH'] = folder + os.pathsep + environment['PATH']
    reply = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert (reply.returncode == 0) is ok, reply.stdout[-2000:] + reply.stderr[-3000:]
    return reply.stdout + reply.stderr


def tool(name, *arguments, cwd, ok=True):
    """Run a tool in a process that has imported upstream's packages already."""
    reply = run_script(ROOT / 'tools' / name, *arguments, cwd=cwd)
    assert (reply.returncode == 0) is ok, reply.stdout[-2000:] + reply.stderr[-3000:]
    return reply.stdout + reply.stderr


def refusal(name, *arguments, cwd, monkeypatch):
    """Run a tool in this process, which is faster; return what it ends with."""
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, 'argv', [name, *arguments])
    with pytest.raises((SystemExit, ValueError, FileNotFoundError)) as left:
        runpy.run_path(str(ROOT / 'tools' / name), run_name='__main__')
    return str(left.value)


def weights(path):
    return torch.load(path, map_location='cpu', weights_only=False)['state_dict']


TOOLS = sorted(
    path.stem
    for path in (ROOT / 'tools').glob('*.py')
    if 'def parse_args' in path.read_text(encoding='utf-8')
)


@pytest.mark.parametrize('name', TOOLS)
def test_every_option_says_what_it_is(name, monkeypatch):
    class Stop(Exception):
        pass

    def stop(parser, *_):
        raise Stop(parser)

    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', stop)
    spec = importlib.util.spec_from_file_location(f'{name}_tool', ROOT / 'tools' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(Stop) as stopped:
        module.parse_args()
    (parser,) = stopped.value.args
    # As it is typed, and not as Python writes it.
    assert len(parser._actions) > 1 and not re.search(r'default [\[(]', parser.format_help())
    assert [action.dest for action in parser._actions if not action.help] == []


def test_train_resume_and_test_student_and_teacher(tmp_path):
    tool('train.py', TEACHER, '--cfg-options', *TINY, cwd=tmp_path)
    teacher = tmp_path / 'work_dirs/digits_teacher/epoch_1.pth'
    with_teacher = [*TINY, f'model.teacher_ckpt={teacher}']
    tool('train.py', KD, '--cfg-options', *with_teacher, cwd=tmp_path)
    options = [option for option in with_teacher if 'max_epochs' not in option]
    printed = tool(
        'train.py', KD, '--resume', '--cfg-options', *options, 'train_cfg.max_epochs=2',
        cwd=tmp_path,
    )  # fmt: skip
    assert 'resumed epoch: 1' in printed
    assert (tmp_path / 'work_dirs/kd_digits/epoch_2.pth').is_file()
    student = tmp_path / 'work_dirs/kd_digits/epoch_2.pth'
    # Without the teacher's checkpoint.
    tool('test.py', KD, student, '--out', 's.json', '--cfg-options', *TINY, cwd=tmp_path)
    tool('test.py', KD, '--teacher', '--out', 't.json', '--cfg-options', *with_teacher,
         cwd=tmp_path)  # fmt: skip
    # The same two checkpoints, tested as stock models without us.
    tool('test.py', STUDENT, student, '--out', 's2.json', '--cfg-options', *TINY, cwd=tmp_path)
    tool('test.py', TEACHER, teacher, '--out', 't2.json', '--cfg-options', *TINY, cwd=tmp_path)

    def read(name):
        return json.loads((tmp_path / name).read_text())

    assert read('s.json') == read('s2.json')
    assert read('t.json') == read('t2.json')


def test_two_processes_on_a_machine_without_gpus(tmp_path):
    run(
        'bash', ROOT / 'tools/dist_train.sh', KD, 2, '--cfg-options', *TINY, *RANDOM_TEACHER,
        cwd=tmp_path,
    )  # fmt: skip
    checkpoint = tmp_path / 'work_dirs/kd_digits/epoch_1.pth'
    assert 'head.fc.weight' in weights(checkpoint)
    # 96 scans in batches of 32 on 2 processes: 2 iterations each, the last one shared.
    saved = torch.load(checkpoint, map_location='cpu', weights_only=False)
    assert saved['meta']['iter'] == 2
    printed = run(
        'bash', ROOT / 'tools/dist_test.sh', KD, checkpoint, 2, '--cfg-options', *TINY,
        *RANDOM_TEACHER, cwd=tmp_path,
    )  # fmt: skip
    assert 'accuracy/top1' in printed


def test_dot_on_two_processes(tmp_path):
    dot = ROOT / 'configs/dot/dot_kd_digits.py'
    command = (ROOT / 'tools/train.py', dot, '--launcher', 'pytorch', '--cfg-options', *TINY)
    run_on_two_ranks(*command, *RANDOM_TEACHER, cwd=tmp_path)
    checkpoint = tmp_path / 'work_dirs/dot_kd_digits/epoch_1.pth'
    saved = torch.load(checkpoint, map_location='cpu', weights_only=False)
    assert saved['meta']['iter'] == 2
    assert all('distill_momentum_buffer' in s for s in saved['optimizer']['state'].values())
    # What would be wrong says so before the first step.
    wrapped = 'model_wrapper_cfg.type=MMDistributedDataParallel'
    printed = run_on_two_ranks(*command, *RANDOM_TEACHER, wrapped, cwd=tmp_path, ok=False)
    assert 'model_wrapper_cfg.broadcast_buffers=True (the default of MMDistr' in printed
    assert 'Epoch(train)' not in printed


@pytest.mark.parametrize('package', ['kd_plugins', 'mmpretrain'])
def test_mim_trains_a_config_by_its_path(tmp_path, package):
    from importlib.metadata import PackageNotFoundError, version

    name = package
    if package == 'mmpretrain':
        try:
            version('mmpretrain')
        except PackageNotFoundError:
            name = 'onedl-mmpretrain'
    run(
        sys.executable, '-m', 'mim', 'train', name, KD, '--gpus', 0, '--cfg-options', *TINY,
        *RANDOM_TEACHER, cwd=tmp_path,
    )  # fmt: skip
    assert 'head.fc.weight' in weights(tmp_path / 'work_dirs/kd_digits/epoch_1.pth')


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        ((KD, '--amp'), '--amp needs an accelerator'),
        (
            (KD, '--auto-scale-lr', '--cfg-options', 'auto_scale_lr={}'),
            '--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...)',
        ),
        (('broken.py',), "config 'broken.py', line 1, is no Python"),
        (
            (KD,),
            "model.teacher_ckpt='work_dirs/digits_teacher/epoch_30.pth' is not a file ",
        ),
    ],
)
def test_what_cannot_be_trained_says_so_before_training(
    tmp_path, monkeypatch, capsys, arguments, says
):
    (tmp_path / 'broken.py').write_text('model = (\n')
    assert says in refusal('train.py', *arguments, cwd=tmp_path, monkeypatch=monkeypatch)
    assert 'Epoch(train)' not in ''.join(capsys.readouterr())


PICTURES = """
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=8, stem_channels=8),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=64))
train_dataloader = dict(
    batch_size=2, num_workers=1, collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='CustomDataset', data_root='pictures', pipeline=[
        dict(type='kd_plugins.LoadImageFromFile'), dict(type='PackInputs')]))
train_cfg = dict(by_epoch=True, max_epochs=1)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
"""


def test_what_is_found_while_training_is_one_sentence(tmp_path, monkeypatch):
    """And what may be anybody's fault has its traceback, as everything has with --verbose."""
    (tmp_path / 'config.py').write_text(PICTURES)
    for name in 'ab':
        (tmp_path / 'pictures' / name).mkdir(parents=True)
        (tmp_path / 'pictures' / name / '0.png').write_bytes(b'')

    def ends_with(*options):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, 'argv', ['train.py', 'config.py', *options])
        with pytest.raises((SystemExit, ValueError)) as left:
            runpy.run_path(str(ROOT / 'tools/train.py'), run_name='__main__')
        return left.value

    left = ends_with()
    assert isinstance(left, SystemExit) and re.fullmatch(
        r"the picture '.*pictures/a/0.png' cannot be read \(the file is empty\): replace it, or "
        r'take it out of the dataset\.',
        str(left),
    )
    assert isinstance(ends_with('--verbose'), ValueError)

    def fail(runner):
        raise ValueError('a bug.')

    monkeypatch.setattr(Runner, 'train', fail)
    assert isinstance(ends_with(), ValueError)


def of_a_config(tool):
    """The least that a tool of a config is given."""
    more = dict(compare=['c.pth'], export_student=['c.pth'], test=['c.pth'])
    more['label_pictures'] = ['c.pth', 'pictures', '--out', 'labels.json']
    more['linear_probe'] = ['c.pth', '--data', 'pictures']
    more['label_pictures'] = ['c.pth', 'pictures', '--out', 'labels.json']
    return more.get(tool, [])


@pytest.mark.parametrize(
    'name',
    ('cache_teacher', 'check', 'compare', 'export_student', 'label_pictures', 'linear_probe',
     'repeat', 'test', 'train', 'verdict'),
)  # fmt: skip
def test_tools_refuse_a_config_in_one_way(name, tmp_path, monkeypatch, capsys):
    """One sentence: with the code 2 where the command line is wrong, and 1 where its content is."""
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    arguments = dict(cwd=tmp_path, monkeypatch=monkeypatch)
    assert refusal(f'{name}.py', 'nowhere.py', *of_a_config(name), **arguments) == '2'
    sentence = "config 'nowhere.py' is not a file: give the path of a config.\n"
    assert capsys.readouterr().err == sentence
    (tmp_path / 'broken.py').write_text('model = (\n')
    said = refusal(f'{name}.py', 'broken.py', *of_a_config(name), **arguments)
    assert said == "config 'broken.py', line 1, is no Python: '(' was never closed."
    if name != 'linear_probe':
        given = ['a.py', *of_a_config(name), '--cfg-options', 'lr=1', 'lr']
        assert refusal(f'{name}.py', *given, **arguments) == '2'
        assert capsys.readouterr().err == "--cfg-options 'lr' is no setting: give KEY=VALUE.\n"
    assert refusal(f'{name}.py', '--nonsense', 'a.py', *of_a_config(name), **arguments) == '2'
    said = capsys.readouterr().err
    assert '--nonsense; ' in said and said.endswith(f'{name}.py --help lists the options.\n')
    assert said.count('\n') == 1


def test_learning_rate_is_scaled(tmp_path):
    printed = tool(
        'train.py', STUDENT, '--auto-scale-lr', '--cfg-options', *TINY,
        'train_dataloader.batch_size=16', 'default_hooks.logger.interval=1', cwd=tmp_path,
    )  # fmt: skip
    assert 'lr: 5.0000e-02' in printed


@pytest.mark.parametrize('arguments', [(KD,), (KD, 'x.pth', '--teacher')])
def test_testing_wants_a_checkpoint_or_the_teacher(tmp_path, monkeypatch, capsys, arguments):
    assert refusal('test.py', *arguments, cwd=tmp_path, monkeypatch=monkeypatch) == '2'
    assert "give either the student's checkpoint or --teacher" in capsys.readouterr().err


def test_a_checkpoint_that_is_not_there_is_one_sentence(tmp_path, monkeypatch):
    said = refusal('test.py', KD, 'gone.pth', cwd=tmp_path, monkeypatch=monkeypatch)
    assert said.startswith("checkpoint='gone.pth' is not a file (looked for in")


def test_a_test_needs_nothing_of_the_teacher(tmp_path, monkeypatch):
    """Nor a store, nor what the terms have learned, of which it says nothing."""
    monkeypatch.chdir(tmp_path)
    path = str(ROOT / 'configs/ctkd/ctkd_kd_digits.py')
    cfg = Config.fromfile(path)
    cfg.model.update(teacher_ckpt=None, allow_random_teacher=True)
    init_default_scope('mmpretrain')
    trained = MODELS.build(dict(cfg.model, data_preprocessor=dict(cfg.data_preprocessor)))
    state = trained.state_dict()
    assert any(name.startswith('distiller.') for name in state)
    save_checkpoint(dict(state_dict=state, meta=dict()), 'student.pth')
    cfg.model.update(teacher_ckpt='gone.pth', allow_random_teacher=False)
    cfg.model.teacher_cache = dict(dir='store', views=2)
    cfg.test_dataloader.dataset.indices = 64
    cfg.dump('config.py')
    printed = tool('test.py', 'config.py', 'student.pth', '--out', 's.json', cwd=tmp_path)
    assert 'is not taken from' not in printed and 'unexpected key' not in printed
    tested = trained.architecture.eval()
    loader = Runner.build_dataloader(cfg.test_dataloader)
    right = [
        int(said.pred_label) == int(said.gt_label)
        for batch in loader
        for said in tested.test_step(batch)
    ]
    top1 = json.loads((tmp_path / 's.json').read_text())['accuracy/top1']
    assert top1 == pytest.approx(100 * sum(right) / 64)
    # Another network's checkpoint is none of it, as before; the teacher is asked for by name.
    state['backbone.more'] = torch.zeros(1)
    save_checkpoint(dict(state_dict=state, meta=dict()), 'other.pth')
    assert "another model's" in tool('test.py', 'config.py', 'other.pth', cwd=tmp_path, ok=False)
    printed = tool('test.py', 'config.py', '--teacher', cwd=tmp_path, ok=False)
    assert "model.teacher_ckpt='gone.pth' is not a file" in printed and 'Traceback' not in printed


def test_a_config_without_a_teacher_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['test.py', str(STUDENT), '--teacher'])
    with pytest.raises(SystemExit, match='^the config has no teacher to measure: its model is a'):
        runpy.run_path(str(ROOT / 'tools/test.py'), run_name='__main__')


def test_a_config_of_a_package_that_is_not_there_says_which(tmp_path, monkeypatch):
    here, there = tmp_path / 'here.py', tmp_path / 'there.py'
    here.write_text("default_scope = 'mmnowhere'\n")
    there.write_text("_base_ = 'mmdet::gfl/gfl_r50_fpn_1x_coco.py'\n")
    args = argparse.Namespace(config=str(here), local_rank=0, verbose=True, cfg_options={})
    with pytest.raises(SystemExit, match="default_scope='mmnowhere'.*install mmnowhere"):
        launch.load_config(args)
    monkeypatch.setattr('mmengine.config.config.is_installed', lambda package: False)
    args.config = str(there)
    with pytest.raises(SystemExit, match='there.py.*mmdet is not installed'):
        launch.load_config(args)
