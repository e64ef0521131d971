"""Files that would run something, by every way a checkpoint is read."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import OrderedDict
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ROOT, algorithm_cfg, build
from helpers.pickles import legacy
from helpers.processes import run_script
from helpers.tiny_training import config, train
from mmengine.logging import HistoryBuffer
from mmengine.model import initialize
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader, checkpoint, load_checkpoint

from kd_plugins.files import reading
from kd_plugins.files.export_student import export_student
from kd_plugins.files.reading import UnreadableCheckpointError, UntrustedCheckpointError

REFUSES = pytest.raises(UntrustedCheckpointError, match=r'names posix\.mkdir, which no checkpoint')


class Bomb:
    """Makes a directory as it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def bomb(tmp_path):
    """A checkpoint that looks right and makes the directory ``ran``."""
    weights = OrderedDict(build().state_dict())
    content = dict(meta=dict(epoch=1, iter=1), state_dict=weights, message_hub={}, optimizer={})
    path = tmp_path / 'bomb.pth'
    torch.save(dict(content, extra=Bomb(tmp_path / 'ran')), path)
    yield path
    assert not (tmp_path / 'ran').exists()


def test_upstream_runs_what_the_file_says(bomb, tmp_path):
    torch.load(bomb, weights_only=False)
    assert (tmp_path / 'ran').is_dir()
    (tmp_path / 'ran').rmdir()


WAYS = {
    'teacher_ckpt': lambda path: MODELS.build(
        algorithm_cfg(allow_random_teacher=False, teacher_ckpt=path)
    ),
    'init_cfg': lambda path: initialize(build(), dict(type='Pretrained', checkpoint=path)),
    'load_from': lambda path: train(config(os.path.dirname(path) + '/a', load_from=path)),
    'resume': lambda path: train(config(os.path.dirname(path) + '/a', load_from=path, resume=True)),
    'load_checkpoint': lambda path: load_checkpoint(build(), path),
    'file scheme': lambda path: CheckpointLoader.load_checkpoint(path),
    'load': lambda path: reading.load(path),
    'export': lambda path: export_student(config('.', model=dict(algorithm_cfg())), path),
}


@pytest.mark.parametrize('way', WAYS)
def test_no_way_in_runs_it(bomb, way):
    with REFUSES:
        WAYS[way](str(bomb))


def test_automatic_resume_does_not_run_it(bomb, tmp_path):
    bomb.rename(tmp_path / 'epoch_1.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
    with REFUSES:
        train(config(tmp_path, resume=True))


ADDRESSES = [
    '{path}', 'http://nowhere.invalid/{name}', 'https://nowhere.invalid/{name}', 'pavi://{name}',
    's3://bucket/{name}', 'open-mmlab:s3://bucket/{name}', 'petrel://bucket/{name}',
    'modelzoo://net', 'torchvision://net', 'open-mmlab://net', 'openmmlab://file', 'mmcls://net',
]  # fmt: skip


@pytest.fixture
def far_away(tmp_path, monkeypatch):
    """Returns a function that puts a file where every kind of address leads to."""
    # What a download leaves in the cache.
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path / 'mmengine'))
    folder = tmp_path / 'home/hub/checkpoints'
    folder.mkdir(parents=True)
    pavi = ModuleType('pavi')
    pavi.modelcloud = SimpleNamespace(
        get=lambda name: SimpleNamespace(
            name=name, download=lambda to: shutil.copy(folder / name, to)
        )
    )
    monkeypatch.setitem(sys.modules, 'pavi', pavi)
    backend = SimpleNamespace(get=lambda path: (folder / path.split('/')[-1]).read_bytes())
    monkeypatch.setattr(checkpoint, 'get_file_backend', lambda *_, **__: backend)

    def put(path):
        (tmp_path / 'mmengine').mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / 'mmengine' / path.name)
        shutil.copy(path, folder / path.name)
        addresses = dict(net=f'https://nowhere.invalid/{path.name}', file=path.name)
        for kind in ('torchvision', 'external', 'mmcls'):
            monkeypatch.setattr(checkpoint, f'get_{kind}_models', lambda: addresses)
        return [address.format(path=path, name=path.name) for address in ADDRESSES]

    return put


def test_no_address_runs_it(bomb, far_away):
    for address in far_away(bomb):
        with REFUSES:
            CheckpointLoader.load_checkpoint(address)


def test_every_address_is_read(tmp_path, far_away, capsys):
    # Every scheme of upstream's; the day it has another one, this is to learn it.
    kinds = {address.partition('://')[0].split(':')[-1] + '://' for address in ADDRESSES[1:]}
    known = {re.sub(r'^\W.*\)\??', '', scheme) for scheme in CheckpointLoader._schemes}
    assert known == {'', *kinds}
    weights = {'backbone.w': torch.arange(3.0)}
    path = tmp_path / 'good.pth'
    torch.save(dict(state_dict=weights), path)
    for address in far_away(path):
        read = CheckpointLoader.load_checkpoint(address, map_location='meta')['state_dict']
        ((name, value),) = read.items()
        assert name == ('w' if address.startswith('mmcls') else 'backbone.w')
        assert value.shape == (3,) and value.device.type == 'meta'
    assert 'Downloading' not in capsys.readouterr().err


def test_a_download_is_kept_and_a_zipped_checkpoint_is_read(tmp_path, monkeypatch, bomb):
    torch.save(dict(w=torch.arange(3)), tmp_path / 'good.pth')
    for name in ('good', 'bomb'):
        with zipfile.ZipFile(tmp_path / f'{name}.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
            archive.write(tmp_path / f'{name}.pth', '../../outside.pth')
    fetched = []

    def fetch(url, to, digest, progress):
        fetched.append((url, digest, progress))
        shutil.copy(tmp_path / 'good.zip', to)

    monkeypatch.setattr(torch.hub, 'download_url_to_file', fetch)
    arguments = dict(model_dir=str(tmp_path / 'cache'), progress=False)
    url = 'https://nowhere.invalid/a/net-0123abcd.pth?version=2'
    for _ in range(2):
        read = reading.load_url(url, check_hash=True, **arguments)
        assert read['w'].tolist() == [0, 1, 2]
    assert fetched == [(url, '0123abcd', False)]
    assert [path.name for path in (tmp_path / 'cache').iterdir()] == ['net-0123abcd.pth']
    shutil.copy(tmp_path / 'bomb.zip', tmp_path / 'cache/bomb.zip')
    with REFUSES:
        reading.load_url('https://nowhere.invalid/bomb.zip', **arguments)


@pytest.mark.parametrize(
    'command',
    [
        ['tools/test.py', 'CONFIG', 'BOMB'],
        ['tools/export_student.py', 'CONFIG', 'BOMB'],
        ['tools/train.py', 'CONFIG', '--resume', 'BOMB'],
        ['tools/train.py', 'KD', '--cfg-options', 'model.teacher_ckpt=BOMB'],
    ],
)
def test_no_tool_runs_it(bomb, tmp_path, command):
    names = dict(
        CONFIG=str(ROOT / 'configs/vanilla/digits_student.py'),
        KD=str(ROOT / 'configs/kd/kd_digits.py'),
    )
    arguments = [names.get(part, part.replace('BOMB', str(bomb))) for part in command]
    reply = run_script(ROOT / arguments[0], *arguments[1:], cwd=tmp_path)
    assert reply.returncode != 0
    assert 'names posix.mkdir, which no checkpoint' in reply.stderr


def test_a_config_in_a_checkpoint_is_not_run(tmp_path):
    # mmengine's resume runs meta.config as a config file.
    train(config(tmp_path, epochs=1))
    path = tmp_path / 'epoch_1.pth'
    saved = reading.load(path)
    saved['meta']['config'] = f'import os\nos.mkdir({str(tmp_path / "ran")!r})\n'
    torch.save(saved, path)
    train(config(tmp_path, epochs=2, resume=True))
    assert (tmp_path / 'epoch_2.pth').is_file() and not (tmp_path / 'ran').exists()


def test_the_switch_reads_it_all_the_same(bomb, tmp_path, monkeypatch):
    monkeypatch.setenv(reading.TRUST, '1')
    load_checkpoint(build(), str(bomb))
    assert (tmp_path / 'ran').is_dir()
    (tmp_path / 'ran').rmdir()
    monkeypatch.setenv(reading.TRUST, 'yes')
    with REFUSES:
        load_checkpoint(build(), str(bomb))


@pytest.mark.parametrize(
    ('opcodes', 'name'),
    [
        # getattr of anything but the statistics of a log and the curves of a schedule.
        ([b'c__builtin__\ngetattr\n', b'ccollections\nOrderedDict\nX\x08\x00\x00\x00__init__\x86R'],
         'collections.OrderedDict.__init__'),
        ([b'c__builtin__\ngetattr\ncmmengine.logging.history_buffer\nHistoryBuffer\n',
          b'X\x08\x00\x00\x00__init__\x86R'],
         'mmengine.logging.history_buffer.HistoryBuffer.__init__'),
        ([b'c__builtin__\neval\nX\x03\x00\x00\x001+1\x85R'], 'builtins.eval'),
        # torch's own door to another, unguarded load.
        ([b'ctorch.storage\n_load_from_bytes\nC\x01a\x85R'], 'torch.storage._load_from_bytes'),
        # A dotted name that begins in an allowed module.
        ([b'X\x05\x00\x00\x00torchX\x0b\x00\x00\x00hub.os.path\x93'], 'torch.hub.os.path'),
        ([b'cos\nmkdirStorage\n'], 'os.mkdirStorage'),
    ],
)  # fmt: skip
def test_detours_are_refused(tmp_path, opcodes, name):
    path = tmp_path / 'detour.pth'
    path.write_bytes(legacy(*opcodes))
    with pytest.raises(UntrustedCheckpointError, match=f'names {name},'):
        CheckpointLoader.load_checkpoint(str(path))


def test_torchscript_is_a_program(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / 'script.pt'))
    with pytest.raises(UntrustedCheckpointError, match='is a TorchScript program'):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'script.pt'))


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
@pytest.mark.parametrize('zipped', [True, False])
def test_what_checkpoints_are_made_of_is_read_exactly(tmp_path, zipped, protocol):
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(3))])
    optimizer.param_groups[0]['params'][0].sum().backward()
    optimizer.step()
    buffer = HistoryBuffer([1.0, 2.0, 4.0], [1, 1, 2])
    content = dict(
        state_dict=OrderedDict(torch.nn.BatchNorm2d(3).half().state_dict()),
        parameter=torch.nn.Parameter(torch.randn(2, 2, dtype=torch.bfloat16)),
        optimizer=optimizer.state_dict(),
        message_hub=dict(log_scalars=OrderedDict(a=buffer), keys={'a', 'b'}),
        meta=dict(
            number=np.float64(0.5), count=np.int64(3), array=np.eye(2, dtype=np.float32),
            names=np.array(['a', 'b']), size=torch.Size([1, 2]), dtype=torch.float16,
            device=torch.device('cpu'), slice=slice(1, 2), none=None, text='ä',
        ),
    )  # fmt: skip
    path = tmp_path / 'checkpoint.pth'
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    ours = CheckpointLoader.load_checkpoint(str(path))
    theirs = torch.load(path, weights_only=False)
    assert repr(ours['meta']) == repr(theirs['meta'])
    assert ours['message_hub']['keys'] == {'a', 'b'}
    log = ours['message_hub']['log_scalars']['a']
    assert type(log) is HistoryBuffer and log.mean() == 1.75 and log.max() == 4.0
    assert type(ours['parameter']) is torch.nn.Parameter
    assert torch.equal(ours['parameter'], content['parameter'])
    for key, value in content['state_dict'].items():
        assert torch.equal(ours['state_dict'][key], value)
        assert ours['state_dict'][key].dtype == value.dtype
    assert repr(ours['optimizer']) == repr(theirs['optimizer'])


@pytest.mark.parametrize('core', [b'numpy.core.multiarray', b'numpy._core.multiarray'])
def test_a_trainings_checkpoint_of_either_numpy_is_read_exactly(tmp_path, core):
    train(config(tmp_path, epochs=1))
    path = tmp_path / 'epoch_1.pth'
    theirs = torch.load(path, weights_only=False)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (main,) = (name for name in members if name.endswith('/data.pkl'))
    renamed, count = re.subn(rb'numpy\._?core\.multiarray', core, members[main])
    assert count
    with zipfile.ZipFile(path, 'w') as archive:
        for name, data in members.items():
            archive.writestr(name, renamed if name == main else data)
    ours = reading.load(path)
    assert list(ours) == list(theirs) and len(ours['optimizer']['state']) > 0
    logs = [part['message_hub'].pop('log_scalars') for part in (ours, theirs)]
    assert list(logs[0]) == list(logs[1]) and len(logs[0]) > 2
    for name, log in logs[0].items():
        assert repr(log.data) == repr(logs[1][name].data) and log.data[0].size > 0
        assert log.max_length == logs[1][name].max_length
        assert log.statistics('mean') == logs[1][name].statistics('mean')
    for key in theirs:
        assert repr(ours[key]) == repr(theirs[key]), key


@pytest.mark.parametrize('zipped', [True, False])
def test_a_part_of_a_checkpoint_says_so(tmp_path, zipped):
    path = tmp_path / 'cut.pth'
    torch.save(dict(state_dict=build().state_dict()), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for size in [*range(0, len(whole), max(len(whole) // 40, 1)), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(UnreadableCheckpointError, match=r'cut\.pth. is not a readable check'):
            CheckpointLoader.load_checkpoint(str(path))


@pytest.mark.parametrize('content', [b'hello, world', b'PK\x03\x04', b'\x80\x02', b'\x80\x02}.'])
def test_another_kind_of_file_says_so(tmp_path, content):
    path = tmp_path / 'other.pth'
    path.write_bytes(content)
    with pytest.raises(UnreadableCheckpointError, match='or is another kind of file'):
        CheckpointLoader.load_checkpoint(str(path))


def test_an_archive_without_weights_says_so(tmp_path):
    with zipfile.ZipFile(tmp_path / 'other.zip', 'w') as archive:
        archive.writestr('readme.txt', 'hello')
    with pytest.raises(UnreadableCheckpointError, match='an archive without data.pkl'):
        reading.load(tmp_path / 'other.zip')


def test_the_list_is_in_place_whichever_is_imported_first():
    show = (
        'import torch\n'
        'from mmengine.runner import checkpoint as c\n'
        'from kd_plugins.files import reading\n'
        'schemes = {s.__globals__["torch"].load for s in c.CheckpointLoader._schemes.values()}\n'
        'print(schemes == {reading.load}, c.load_url is reading.load_url, len(c.CheckpointLoader'
        '._schemes) > 8, torch.load.__module__, torch.hub.torch is torch)'
    )
    for order in (
        f'import kd_plugins\n{show}',
        f'import mmengine.runner\nimport kd_plugins\n{show}',
    ):
        reply = subprocess.run(
            [sys.executable, '-c', order], capture_output=True, text=True,
            env=dict(os.environ, PYTHONPATH=str(ROOT)),
        )  # fmt: skip
        last = reply.stdout.strip().splitlines()[-1]
        assert last == 'True True True torch.serialization True', reply.stderr
