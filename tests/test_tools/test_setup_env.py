"""The environment setup: what it decides, without installing anything."""

import io
import os
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tools' / 'dev'))

import console  # noqa: E402
import mmcv_wheel  # noqa: E402
import setup_env  # noqa: E402
import stacks  # noqa: E402

WHEEL = mmcv_wheel.MmcvWheel('mmcv', '2.1.0', '2.1.2', 'cp311', 'file:///nowhere', cuda=False)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


# The wheel cache


def test_wheel_key_is_the_documented_one():
    assert WHEEL.key == 'mmcv-2.1.0-torch2.1.2-cp311'


@pytest.mark.parametrize(
    'change',
    [
        {'package': 'onedl-mmcv'},
        {'version': '2.2.0'},
        {'torch': '2.1.1'},
        {'python_tag': 'cp310'},
        {'cuda': True},
    ],
)
def test_wheel_key_tells_apart_what_does_not_fit(change):
    assert replace(WHEEL, **change).key != WHEEL.key


def test_cache_root_takes_the_most_specific_variable():
    env = {'XDG_CACHE_HOME': '/x'}
    assert mmcv_wheel.cache_root(env) == Path('/x/kd_plugins')
    assert mmcv_wheel.cache_root({**env, 'KD_PLUGINS_CACHE': '/k'}) == Path('/k')
    assert mmcv_wheel.cache_root({}) == Path.home() / '.cache' / 'kd_plugins'


def test_cached_takes_whole_wheels_of_its_own_key_only(tmp_path):
    folder = tmp_path / 'wheels' / WHEEL.key
    assert mmcv_wheel.cached(WHEEL, tmp_path) is None
    folder.mkdir(parents=True)
    assert mmcv_wheel.cached(WHEEL, tmp_path) is None
    wheel = folder / 'mmcv-2.1.0-cp311-cp311-linux_x86_64.whl'
    wheel.write_bytes(b'PK\x03\x04 and then the power went')
    assert mmcv_wheel.cached(WHEEL, tmp_path) is None
    with zipfile.ZipFile(wheel, 'w') as archive:
        archive.writestr('mmcv/__init__.py', '')
    assert mmcv_wheel.cached(WHEEL, tmp_path) == wheel
    assert mmcv_wheel.cached(replace(WHEEL, torch='2.1.1'), tmp_path) is None


def test_prebuilt_wheel_must_fit_this_python_and_version(tmp_path):
    page = tmp_path / 'index.html'
    page.write_text('<a href="../torch2.1.0/mmcv-2.1.0-cp311-cp311-manylinux1_x86_64.whl">')
    wheel = replace(WHEEL, index=page.as_uri())
    assert mmcv_wheel.prebuilt_listed(wheel)
    assert not mmcv_wheel.prebuilt_listed(replace(wheel, python_tag='cp310'))
    assert not mmcv_wheel.prebuilt_listed(replace(wheel, version='2.1.1'))


def test_a_silent_server_of_prebuilt_wheels_costs_little(capfd):
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        server.listen()
        wheel = replace(WHEEL, index=f'http://127.0.0.1:{server.getsockname()[1]}/')
        begun = time.monotonic()
        assert not mmcv_wheel.prebuilt_listed(wheel, seconds=0.3)
        assert time.monotonic() - begun < 2
    assert capfd.readouterr() == ('', '')


def test_no_compiler_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv('CXX', 'no-such-compiler')
    with pytest.raises(console.Failure, match=r'no C\+\+ compiler \(no-such-compiler\)'):
        mmcv_wheel.require_compiler(WHEEL, str(tmp_path))
    monkeypatch.setenv('CXX', sys.executable)  # something that exists
    with pytest.raises(console.Failure, match="Python's headers are not in"):
        mmcv_wheel.require_compiler(WHEEL, str(tmp_path))
    (tmp_path / 'Python.h').touch()
    mmcv_wheel.require_compiler(WHEEL, str(tmp_path))


def test_max_jobs_is_the_users_and_otherwise_at_least_one():
    assert mmcv_wheel.job_count({'MAX_JOBS': '7'}) == 7
    assert 1 <= mmcv_wheel.job_count({}) <= (os.cpu_count() or 1)


def test_a_failed_compilation_names_the_compilers_error(tmp_path):
    log = tmp_path / 'log'
    log.write_text(
        '$ pip wheel\n a.cpp:3:1: error: from an earlier run\n'
        '$ pip wheel\n  b.cpp:1:10: fatal error: torch.h: No such file\n'
        '  error: subprocess-exited-with-error\n'
    )
    assert mmcv_wheel.compiler_error(log) == 'fatal error: torch.h: No such file'
    log.write_text('$ pip wheel\nninja: stopped\nerror: subprocess-exited-with-error\n')
    assert mmcv_wheel.compiler_error(log) == 'see the log'


# Progress


def feed(reader, *lines):
    for line in lines:
        reader.feed(line)
    return reader


def test_ninja_lines_are_found_among_compiler_output():
    reader = feed(
        console.NinjaReader(),
        '  [21/77] c++ -MMD -MF /tmp/[3/9].o.d',
        'note: see [50/60] elsewhere',
        'a[1/2];',
    )
    assert (reader.done, reader.total) == (21, 77)


def test_ninja_estimate_is_the_rate_since_ninja_began():
    clock = Clock()
    reader = console.NinjaReader(clock)
    clock.now += 50  # pip and setup.py, before the first file
    feed(reader, 'Emitting ninja build file /b/build.ninja...')
    clock.now += 40
    feed(reader, '[10/40] c++ x')
    assert reader.remaining(elapsed=90) == pytest.approx(40 / 10 * 30)
    assert reader.status(90) == '1 min 30 s: file 10 of 40, about 2 min 00 s left'


def test_ninja_estimate_is_not_given_before_it_means_anything():
    reader = feed(console.NinjaReader(), '[2/40] c++ x')
    assert reader.remaining(60) is None
    assert reader.status(60) == '1 min 00 s: file 2 of 40'
    assert console.NinjaReader().status(5) == '5 s: preparing'


def test_pip_status_names_the_current_step():
    reader = feed(console.PipReader(), 'Collecting torch', '  some noise')
    assert reader.status(61) == '1 min 01 s: Collecting torch'
    feed(reader, 'Installing collected packages: wheel, numpy, torch')
    assert reader.status(5) == '5 s: installing 3 packages'


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [(0.4, '0 s'), (59.6, '1 min 00 s'), (65, '1 min 05 s'), (3720, '1 h 02 min')],
)
def test_duration(seconds, text):
    assert console.duration(seconds) == text


def test_progress_into_a_pipe_shows_life_now_and_then():
    clock, stream = Clock(), io.StringIO()
    progress = console.Progress(console.PipReader(), every=15, stream=stream, clock=clock)
    for _ in range(40):
        clock.now += 1
        progress.tick()
    assert stream.getvalue().splitlines() == ['      15 s: working', '      30 s: working']


def test_log_tail_leaves_pips_noise_out(tmp_path):
    log = tmp_path / 'log'
    log.write_text('first\nWARNING: noise\n\n[notice] A new release of pip\nERROR: no wheel\n')
    assert console.tail(log).split() == ['first', 'ERROR:', 'no', 'wheel']
    assert console.tail(log, lines=1).strip() == 'ERROR: no wheel'


def test_commands_are_logged_and_their_status_returned(tmp_path):
    log = tmp_path / 'log'
    runner = console.Runner(Path(sys.executable), log)
    assert runner.run('-c', 'import os, sys; print(os.environ["A"]); sys.exit(3)', A='hello') == 3
    assert log.read_text().splitlines()[-1] == 'hello'


def test_an_interrupt_stops_the_command_and_its_children(tmp_path):
    mark = tmp_path / 'child'
    child = f'import os, time; open({str(mark)!r}, "w").write(str(os.getpid())); time.sleep(60)'
    parent = f'import subprocess, sys; subprocess.run([sys.executable, "-c", {child!r}])'

    class Interrupting(console.Progress):
        def tick(self):
            if mark.exists() and mark.read_text():
                raise KeyboardInterrupt

    runner = console.Runner(Path(sys.executable), tmp_path / 'log')
    with pytest.raises(KeyboardInterrupt):
        runner.run('-c', parent, progress=Interrupting(console.PipReader()))
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and _alive(int(mark.read_text())):
        time.sleep(0.05)
    assert not _alive(int(mark.read_text()))


def _alive(pid):
    state = subprocess.run(['ps', '-o', 'stat=', '-p', str(pid)], capture_output=True, text=True)
    return state.stdout.strip() != '' and not state.stdout.strip().startswith('Z')


def test_a_lock_outlives_its_process_while_the_command_runs(tmp_path):
    lock = tmp_path / 'lock'
    script = (
        f'import sys; sys.path.insert(0, {str(ROOT / "tools" / "dev")!r})\n'
        'import os, pathlib, console, mmcv_wheel\n'
        f'lock = pathlib.Path({str(lock)!r})\n'
        'class Killed(console.Progress):\n'
        '    def tick(self): os.kill(os.getpid(), 9)\n'
        'with mmcv_wheel.locked(lock, "") as held:\n'
        f'    runner = console.Runner(sys.executable, lock.with_name("log"), (held,))\n'
        '    runner.run("-c", "import time; time.sleep(3)", progress=Killed(console.PipReader()))\n'
    )
    assert subprocess.run([sys.executable, '-c', script]).returncode == -9
    begun = time.monotonic()
    with mmcv_wheel.locked(lock, 'waiting'):
        assert time.monotonic() - begun > 0.5


# Requirement files


@pytest.fixture
def root(tmp_path):
    """A repository with nothing but the requirement files and setup.py."""
    shutil.copytree(ROOT / 'requirements', tmp_path / 'requirements')
    (tmp_path / 'setup.py').write_text('')
    return tmp_path


def test_pins_have_sections_and_no_comments(tmp_path):
    path = tmp_path / 'pins.txt'
    path.write_text('# about\n# [torch]\ntorch==2.1.2  # why\n\n# [b c]\nfoo<2#x\n bar==1\n')
    pins = stacks.Pins(path)
    assert pins['torch'] == ['torch==2.1.2']
    assert pins['b c'] == ['foo<2#x', 'bar==1']
    assert pins.version('bar') == '1'
    with pytest.raises(console.Failure, match='does not pin foo'):
        pins.version('foo')


@pytest.mark.parametrize('name', stacks.STACKS)
def test_every_stack_has_the_sections_and_versions_that_setup_reads(name, root):
    setup = setup_env.Setup(stacks.STACKS[name], full=True, root=root)
    assert [s.name for s in setup.stages()] == [
        'venv',
        'torch',
        'packages',
        'full',
        'mmcv',
        'package',
    ]
    wheel = setup.wheel('3.11')
    assert wheel.key.startswith(f'{setup.mmcv}-{wheel.version}-torch{wheel.torch}-cp311')
    assert wheel.index.startswith('https://')
    assert '{' not in wheel.index


def test_official_prebuilt_wheels_are_looked_for_where_mim_does(root, monkeypatch):
    monkeypatch.setattr('platform.system', lambda: 'Linux')
    monkeypatch.setattr('platform.machine', lambda: 'x86_64')
    wheel = setup_env.Setup(stacks.STACKS['official'], full=True, root=root).wheel('3.11')
    assert wheel.index == ('https://download.openmmlab.com/mmcv/dist/cu121/torch2.1.0/index.html')


# Stages and stamps


def stage(key, action=lambda: None, also=()):
    return setup_env.Stage('torch', 'installing torch', key, action, also)


def test_a_stage_is_done_until_what_it_was_made_from_changes(tmp_path):
    stamps = setup_env.Stamps(tmp_path / 'stamps')
    assert not stamps.done(stage('a'))
    stamps.run(stage('a'))
    assert stamps.done(stage('a'))
    assert not stamps.done(stage('b'))
    assert stamps.done(stage('b', also=('c', 'a')))


@pytest.mark.parametrize('error', [console.Failure('no'), KeyboardInterrupt()])
def test_a_stage_that_did_not_end_well_is_not_done(tmp_path, error):
    def fail():
        raise error

    stamps = setup_env.Stamps(tmp_path)
    stamps.run(stage('old'))
    with pytest.raises(type(error)):
        stamps.run(stage('new', fail))
    assert not stamps.done(stage('new'))
    assert not stamps.done(stage('old')), 'half of the new is not the old either'


def test_digest_depends_on_every_part_and_on_the_logic(monkeypatch):
    first = setup_env.digest(['torch==2.1.2'], 'x')
    assert first == setup_env.digest(['torch==2.1.2'], 'x')
    assert first != setup_env.digest(['torch==2.1.1'], 'x')
    monkeypatch.setattr(setup_env, 'LOGIC', 'other')
    assert first != setup_env.digest(['torch==2.1.2'], 'x')


def complete(root, full):
    """Mark every stage of a level as done, without doing it."""
    setup = setup_env.Setup(stacks.STACKS['official'], full, root)
    for each in setup.stages():
        setup.stamps.run(replace(each, action=lambda: None))


def left(root, full):
    setup = setup_env.Setup(stacks.STACKS['official'], full, root)
    return [s.name for _, s in setup_env.pending(setup.stages(), setup.stamps)]


def test_a_full_environment_is_enough_for_classification(root):
    assert left(root, full=False) == ['venv', 'torch', 'packages', 'mmcv', 'package']
    complete(root, full=True)
    assert left(root, full=True) == []
    assert left(root, full=False) == []


def test_full_completes_a_classification_environment(root):
    complete(root, full=False)
    assert left(root, full=False) == []
    assert left(root, full=True) == ['full', 'mmcv']


def test_a_changed_pin_repeats_what_it_concerns(root):
    complete(root, full=True)
    pins = root / 'requirements' / 'official.txt'
    pins.write_text(pins.read_text().replace('# [torch]', '# [torch]\n# a new remark'))
    assert left(root, full=True) == []
    pins.write_text(pins.read_text().replace('mmpretrain==1.2.0', 'mmpretrain==1.1.0'))
    assert left(root, full=True) == ['packages', 'full']
    pins.write_text(pins.read_text().replace('torch==2.1.2', 'torch==2.1.1'))
    assert left(root, full=True) == ['torch', 'packages', 'full', 'mmcv']


def test_a_changed_setup_py_installs_the_package_again(root):
    complete(root, full=True)
    (root / 'setup.py').write_text('# another')
    assert left(root, full=True) == ['package']


def test_an_environment_without_a_working_python_is_made_anew(root):
    complete(root, full=True)
    setup = setup_env.Setup(stacks.STACKS['official'], True, root)
    assert len(setup._pending()) == len(setup.stages())
    setup.runner.python.parent.mkdir()
    setup.runner.python.symlink_to(sys.executable)
    assert setup._pending() == []
    setup.runner.python.unlink()
    setup.runner.python.symlink_to(root / 'gone')
    assert len(setup._pending()) == len(setup.stages())


def test_a_moved_environment_is_made_anew(root):
    complete(root, full=True)
    moved = root / 'moved'
    moved.mkdir()
    for name in ('requirements', '.venv', 'setup.py'):
        (root / name).rename(moved / name)
    setup = setup_env.Setup(stacks.STACKS['official'], True, moved)
    setup.runner.python.parent.mkdir()
    setup.runner.python.symlink_to(sys.executable)
    assert len(setup._pending()) == len(setup.stages())


def test_half_installed_packages_are_forgotten(tmp_path):
    for name in ('whole-1.dist-info', 'half-1.dist-info', '~alf', 'half'):
        (tmp_path / name).mkdir()
    (tmp_path / 'whole-1.dist-info' / 'RECORD').touch()
    (tmp_path / 'half-1.dist-info' / 'METADATA').touch()
    assert setup_env.repair(tmp_path) == ['half-1.dist-info']
    assert sorted(p.name for p in tmp_path.iterdir()) == ['half', 'whole-1.dist-info']


def test_every_kind_of_mmcv_is_removed_and_nothing_else(root):
    setup = setup_env.Setup(stacks.STACKS['official'], True, root)
    packages = setup.venv / 'lib' / 'python3.11' / 'site-packages'
    gone = ['mmcv', 'mmcv-2.1.0.dist-info', 'mmcv_lite-2.1.0.dist-info']
    for name in [*gone, 'mmengine', 'mmcvx-1.dist-info']:
        (packages / name).mkdir(parents=True)
    setup._remove_mmcv()
    assert sorted(p.name for p in packages.iterdir()) == ['mmcvx-1.dist-info', 'mmengine']


# Choosing a Python, and errors


@pytest.fixture
def pythons(tmp_path, monkeypatch):
    """Pretend that only these Pythons are on the PATH."""

    def make(**versions):
        folder = tmp_path / 'bin'
        folder.mkdir()
        for name, version in versions.items():
            path = folder / name.replace('_', '.')
            path.write_text(f'#!/bin/sh\necho {version}\n')
            path.chmod(0o755)
        monkeypatch.setenv('PATH', str(folder))
        return folder

    return make


OFFICIAL = stacks.STACKS['official']


def test_a_fitting_python_is_taken(pythons):
    pythons(python3='3.10', python3_11='3.11')
    assert stacks.choose_python(OFFICIAL, None, 'python3') == 'python3'


def test_another_one_on_the_path_is_taken_if_the_first_does_not_fit(pythons):
    folder = pythons(python3='3.13', python3_10='3.10')
    broken = folder / 'python3.11'  # as a version manager leaves them about
    broken.write_text('#!/bin/sh\nexit 127\n')
    broken.chmod(0o755)
    assert stacks.choose_python(OFFICIAL, None, 'python3') == str(folder / 'python3.10')


def test_the_users_own_choice_is_not_replaced(pythons):
    pythons(python3_12='3.12', python3_11='3.11')
    with pytest.raises(console.Failure, match=r'needs Python 3.10 or 3.11, but python3.12 is 3.12'):
        stacks.choose_python(OFFICIAL, 'python3.12', 'python3.11')


def test_no_fitting_python_is_one_sentence_that_names_one(pythons):
    pythons(python3='3.14')
    with pytest.raises(console.Failure, match='PYTHON=python3.11') as caught:
        stacks.choose_python(OFFICIAL, None, 'python3')
    assert '\n' not in str(caught.value)
    with pytest.raises(console.Failure, match='python9 does not run'):
        stacks.choose_python(OFFICIAL, 'python9')


def test_an_unknown_stack_is_one_line(capsys):
    assert setup_env.main(['--stack', 'officla']) == 1
    captured = capsys.readouterr()
    assert captured.out == ''
    assert captured.err == 'error: STACK=officla is unknown: choose official or modern\n'


def test_a_failure_shows_the_end_of_its_log(capsys, monkeypatch, tmp_path):
    log = tmp_path / 'log'
    log.write_text('ERROR: no matching distribution\n')

    def fail(self):
        raise console.Failure('pip could not install torch', log)

    monkeypatch.setattr(setup_env.Setup, 'run', fail)
    assert setup_env.main([]) == 1
    captured = capsys.readouterr()
    assert 'no matching distribution' in captured.out
    assert str(log) in captured.out
    assert captured.err == 'error: pip could not install torch\n'


def test_an_interrupt_is_one_sentence(capsys, monkeypatch):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(setup_env.Setup, 'run', interrupt)
    assert setup_env.main([]) == 130
    assert capsys.readouterr().err == 'interrupted; run the same command again to go on\n'
