"""The environments of ``make``: what is done when, with a uv that only writes down its orders."""

import fcntl
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = f'{sys.version_info.major}.{sys.version_info.minor}'
STACK = 'modern'  # fits every Python that tests run on
PIN = re.search(r'^uv==(\S+)', (ROOT / 'requirements/tests.txt').read_text(), re.M)[1]

# It makes environments whose Python is an interpreter of its own; "--check" says that all
# is there where a file says so; everything else succeeds unless a file says otherwise.
FAKE_UV = f"""#!{sys.executable}
import json, pathlib, sys, venv
here = pathlib.Path(__file__).parent
orders = sys.argv[1:]
if orders == ['--version']:
    print('uv {PIN}')
    sys.exit()
with (here / 'orders').open('a') as log:
    log.write(json.dumps(orders) + '\\n')
if orders[0] == 'venv':
    if (here / 'no-python').exists():
        sys.exit(2)
    venv.create(orders[-1], clear=True)
    settings = pathlib.Path(orders[-1], 'pyvenv.cfg')
    text = settings.read_text().replace('version = ', 'version_info = ')
    if (here / 'version').exists():
        text = 'version_info = ' + (here / 'version').read_text()
    settings.write_text(text)
elif '--check' in orders:
    sys.exit(0 if (here / 'all-there').exists() else 1)
elif (here / 'fail').exists():
    sys.exit(1)
"""


class Repository:
    """A repository with nothing but what the set-up reads."""

    def __init__(self, root):
        self.root = root
        shutil.copytree(ROOT / 'requirements', root / 'requirements')
        shutil.copytree(ROOT / 'tools' / 'dev', root / 'tools' / 'dev')
        self.uv = root / '.venv-uv' / 'bin' / 'uv'
        self.uv.parent.mkdir(parents=True)
        self.uv.write_text(FAKE_UV)
        self.uv.chmod(0o755)

    def run(self, *arguments, stack=STACK, **variables):
        """Run the set-up; return its exit code, what it printed, and uv's orders."""
        log = self.uv.with_name('orders')
        log.unlink(missing_ok=True)
        environment = {k: v for k, v in os.environ.items() if k not in ('PYTHON', 'PYTHONPATH')}
        reply = subprocess.run(
            [sys.executable, self.root / 'tools/dev/setup_env.py', '--stack', stack, *arguments],
            env={**environment, 'KD_PLUGINS_CACHE': str(self.root / 'cache'), **variables},
            capture_output=True,
            text=True,
        )
        lines = log.read_text().splitlines() if log.exists() else []
        return reply.returncode, reply.stdout + reply.stderr, [json.loads(line) for line in lines]

    def say(self, name, text=''):
        """Tell uv how things are."""
        self.uv.with_name(name).write_text(text)


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path / 'checkout')


def kinds(orders):
    return ['check' if '--check' in order else order[0] for order in orders]


# Environments


def test_a_new_environment_has_the_packages_of_its_stack_and_says_how_long_it_takes(repository):
    code, said, orders = repository.run()
    assert code == 0 and kinds(orders) == ['venv', 'pip'], said
    venv = repository.root / f'.venv-{STACK}'
    assert orders[0][-1] == str(venv)
    install = orders[1]
    assert install[:4] == ['pip', 'install', '--python', str(venv / 'bin' / 'python')]
    assert str(repository.root / 'requirements' / f'make-{STACK}.txt') in install
    assert 'setting up' in said and '3 GB' in said
    assert re.search(rf'\.venv-{STACK} is ready, after \d+ s\n$', said)


def test_where_all_is_there_nothing_is_done_or_said(repository):
    repository.run()
    repository.say('all-there')
    code, said, orders = repository.run()
    assert (code, said, kinds(orders)) == (0, '', ['check'])


def test_changed_requirements_complete_the_environment(repository):
    repository.run()
    code, _, orders = repository.run()
    assert code == 0 and kinds(orders) == ['check', 'pip']


def test_an_interrupted_environment_is_made_anew(repository):
    repository.say('fail')
    code, said, orders = repository.run()
    assert code == 1 and said.endswith('error: uv could not install the packages: see above\n')
    repository.say('all-there')  # uv counts a package whose files were half there
    repository.uv.with_name('fail').unlink()
    assert kinds(repository.run()[2]) == ['venv', 'pip']
    assert kinds(repository.run()[2]) == ['check']


def test_an_interruption_while_it_is_completed_counts_too(repository):
    repository.run()
    repository.say('fail')
    assert kinds(repository.run()[2]) == ['check', 'pip']
    repository.say('all-there')
    repository.uv.with_name('fail').unlink()
    assert kinds(repository.run()[2]) == ['venv', 'pip']


def test_a_moved_environment_is_made_anew(repository):
    repository.run()
    repository.say('all-there')
    repository.root = repository.root.rename(repository.root.with_name('elsewhere'))
    repository.uv = repository.root / '.venv-uv' / 'bin' / 'uv'
    assert kinds(repository.run()[2]) == ['venv', 'pip']


def test_two_set_ups_wait_for_each_other(repository):
    with (repository.root / '.venv.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        held = subprocess.Popen(['sleep', '1'], pass_fds=[lock.fileno()])
    code, said, _ = repository.run()
    assert code == 0 and held.wait() == 0
    assert said.startswith('another set-up is running; waiting for it ...\n')


# Pythons, and errors


def test_a_python_that_was_named_is_taken(repository):
    assert repository.run(PYTHON='python3')[2][0][-2] == sys.executable


def test_a_python_that_does_not_fit_is_one_sentence(repository):
    repository.say('version', '3.9.1')
    code, said, _ = repository.run()
    assert code == 1
    assert said.splitlines()[-1] == (
        'error: the modern stack needs Python 3.10 or 3.11 or 3.12 or 3.13, not 3.9'
    )


def test_without_any_fitting_python_one_is_named(repository):
    repository.say('no-python')
    code, said, _ = repository.run()
    assert code == 1 and said.splitlines()[-1].endswith(
        '`make setup STACK=modern PYTHON=python3.13`'
    )


def test_another_python_than_the_environments_is_not_passed_over(repository):
    repository.run()
    settings = repository.root / f'.venv-{STACK}' / 'pyvenv.cfg'
    other = '3.12' if HERE != '3.12' else '3.11'
    settings.write_text(f'version_info = {other}.1\n')
    code, said, _ = repository.run(PYTHON='python3')
    assert code == 1 and f'has Python {other}, and PYTHON is {HERE}' in said
    assert repository.run()[0] == 0


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['--stack', 'officla'], 'STACK=officla is unknown: choose official or modern'),
        (['--ops', 'none'], 'OPS=none is unknown: choose light or compiled'),
    ],
)
def test_an_unknown_choice_is_one_line(repository, arguments, sentence):
    assert repository.run(*arguments)[:2] == (1, f'error: {sentence}\n')


# The requirement files


@pytest.mark.parametrize('stack', ['official', 'modern'])
def test_the_extra_of_a_stack_is_what_make_installs_without_the_tools(stack):
    scope = {}
    text = (ROOT / 'setup.py').read_text(encoding='utf-8').partition('setup(')[0]
    exec(text.replace('__file__', repr(str(ROOT / 'setup.py'))), scope)
    extra = scope['requirements'](stack)
    assert sum(line.startswith(('torch=', 'torch>')) for line in extra) == 1
    assert any(re.match(r'(onedl-mmcv|mmcv-lite)==', line) for line in extra)
    assert not any('mim' in line or line.startswith('-') for line in extra)
    made = (ROOT / f'requirements/make-{stack}.txt').read_text(encoding='utf-8')
    assert f'-r {stack}.txt' in made.splitlines()


# Compiled operators

# The environment's Python: pip downloads what lies in a folder and compiles as it is told.
FAKE_PYTHON = f"""#!{sys.executable}
import pathlib, shutil, sys
here = pathlib.Path(__file__).parent
arguments = sys.argv[1:]
with (here / 'log').open('a') as log:
    log.write(' '.join(arguments).replace('\\n', ' ') + '\\n')
if arguments[0] == '-c':
    if 'mmcv._ext' in arguments[1]:
        sys.exit(0 if (here / 'works').exists() else 1)
    print('2.1.2 cp311 cpu')
elif 'download' in arguments:
    source = here / ('mmcv-2.1.0.tar.gz' if '--no-binary' in arguments else 'prebuilt.whl')
    if not source.exists():
        sys.exit(1)
    out = pathlib.Path(arguments[arguments.index('-d') + 1])
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, out)
elif 'wheel' in arguments:
    print('Emitting ninja build file\\n  [1/2] c++ a.cpp\\n  [2/2] c++ b.cpp')
    if (here / 'broken').exists():
        print('b.cpp:1:10: fatal error: torch.h: No such file')
        sys.exit('error: subprocess-exited-with-error')
    out = pathlib.Path(arguments[arguments.index('-w') + 1])
    out.mkdir(parents=True, exist_ok=True)
    (out / 'mmcv-2.1.0-cp311.whl').write_text('compiled')
"""


class Compiling:
    """An environment that is to get mmcv with operators."""

    def __init__(self, root):
        self.root = root
        root.mkdir()
        for name, text in (('uv', FAKE_UV), ('python', FAKE_PYTHON)):
            (root / name).write_text(text)
            (root / name).chmod(0o755)
        with tarfile.open(root / 'mmcv-2.1.0.tar.gz', 'w:gz') as archive:
            (root / 'setup.py').touch()
            archive.add(root / 'setup.py', 'mmcv-2.1.0/setup.py')
        self.kept = root / 'cache/wheels/mmcv-2.1.0-torch2.1.2-cp311'
        self.tree = root / 'cache/build/mmcv-2.1.0-torch2.1.2-cp311'

    def install(self):
        """Install; return what Python was asked: trials, downloads, compilations."""
        (self.root / 'log').unlink(missing_ok=True)
        tools = runpy.run_path(str(ROOT / 'tools/dev/compiled_operators.py'))
        try:
            tools['install'](
                self.root / 'uv', self.root / 'python', ROOT / 'requirements/official.txt'
            )
        except tools['Failure'] as failure:
            return str(failure)
        words = ('mmcv._ext', 'download', 'wheel')
        lines = (self.root / 'log').read_text().splitlines()
        return [next(word for word in words if word in line) for line in lines[1:]]


@pytest.fixture
def compiling(tmp_path, monkeypatch):
    monkeypatch.setenv('KD_PLUGINS_CACHE', str(tmp_path / 'environment' / 'cache'))
    monkeypatch.setenv('CXX', sys.executable)  # something that exists
    return Compiling(tmp_path / 'environment')


def test_operators_are_compiled_once_and_then_kept(compiling, capfd):
    (compiling.root / 'works').touch()
    assert compiling.install() == ['download', 'download', 'wheel', 'mmcv._ext']
    assert [path.name for path in compiling.kept.iterdir()] == ['mmcv-2.1.0-cp311.whl']
    assert not compiling.tree.exists()
    said = capfd.readouterr().out
    assert '7 to 17 minutes' in said and '[2/2]' in said
    assert compiling.install() == ['mmcv._ext']


def test_a_prebuilt_wheel_comes_first_where_it_works(compiling):
    (compiling.root / 'works').touch()
    (compiling.root / 'prebuilt.whl').write_text('prebuilt')
    assert compiling.install() == ['download', 'mmcv._ext']
    assert [path.read_text() for path in compiling.kept.iterdir()] == ['prebuilt']


def test_an_interrupted_compilation_keeps_what_is_compiled(compiling):
    (compiling.root / 'broken').touch()
    assert 'fatal error: torch.h: No such file' in compiling.install()
    (compiling.tree / 'a.o').touch()
    (compiling.root / 'broken').unlink()
    (compiling.root / 'works').touch()
    assert compiling.install() == ['download', 'wheel', 'mmcv._ext']


def test_operators_that_do_not_work_are_not_kept(compiling):
    assert compiling.install() == 'the compiled mmcv 2.1.0 cannot be imported'
    assert not compiling.kept.exists()


def test_no_compiler_is_one_sentence(compiling, monkeypatch):
    monkeypatch.setenv('CXX', 'no-such-compiler')
    assert compiling.install().startswith('there is no C++ compiler for OPS=compiled: install one')


def test_compiled_operators_have_an_environment_of_their_own(repository):
    _, _, orders = repository.run('--ops', 'compiled', CXX='no-such-compiler')
    assert kinds(orders)[:2] == ['venv', 'pip']
    assert orders[0][-1] == str(repository.root / f'.venv-{STACK}-compiled')
    # The packages are whole, so that only the operators are left to do.
    assert 'venv' not in kinds(repository.run('--ops', 'compiled', CXX='no-such-compiler')[2])
    left_out = orders[1].index(str(repository.root / 'requirements/compiled.txt'))
    assert orders[1][left_out - 1] == '--excludes'
