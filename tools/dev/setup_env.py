"""Make the environment of a stack, or complete it; go on where a run stopped.

``make`` calls this before every target. Only the standard library is used, since
it runs before anything is installed. Each stage leaves a stamp in the environment
with a hash of what it was made from, and runs again only if that changed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mmcv_wheel
from console import Failure, Runner, duration, say, tail
from mmcv_wheel import MmcvWheel
from stacks import STACKS, Pins, Stack, choose_python, version_of

ROOT = Path(__file__).resolve().parents[2]
LOGIC = '1'  # part of every stamp: raise it when a stage's commands change
PACKAGE_FILES = (
    'setup.py',
    'setup.cfg',
    'pyproject.toml',
    'MANIFEST.in',
    'requirements/runtime.txt',
    'requirements/mminstall.txt',
    'kd_plugins/version.py',
)


@dataclass(frozen=True)
class Stage:
    """A step that need not be repeated.

    Args:
        name (str): Name of its stamp.
        title (str): What it does, for the user.
        key (str): Hash of everything that its result depends on.
        action (Callable): Does it.
        also (tuple[str, ...]): Keys of other results that are as good.
    """

    name: str
    title: str
    key: str
    action: Callable[[], None]
    also: tuple[str, ...] = field(default=())


class Stamps:
    """Remembers in a folder which stages are done, and from what.

    Args:
        folder (Path): The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def done(self, stage: Stage) -> bool:
        """Whether the stage's result is there and up to date."""
        try:
            return (self.folder / stage.name).read_text() in (stage.key, *stage.also)
        except OSError:
            return False

    def run(self, stage: Stage) -> None:
        """Run the stage; it counts as done only once it has ended well."""
        stamp = self.folder / stage.name
        if stamp.exists():
            stamp.unlink()  # an interrupted stage has no result, not the old one
        stage.action()
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = stamp.with_suffix('.new')
        aside.write_text(stage.key)
        os.replace(aside, stamp)


def digest(*parts: object) -> str:
    """Hash the parts, which may be strings or lists of them."""
    return hashlib.sha256(repr((LOGIC, *parts)).encode()).hexdigest()[:20]


def pending(stages: Sequence[Stage], stamps: Stamps) -> list[tuple[int, Stage]]:
    """Return the stages that have to run, with their numbers from 1."""
    return [(n, s) for n, s in enumerate(stages, 1) if not stamps.done(s)]


def repair(site_packages: Path) -> list[str]:
    """Remove the traces of packages whose installation was killed; name them.

    pip writes RECORD last. It takes a package without one for installed if its
    metadata is there already, and would never complete it.
    """
    broken = [p for p in site_packages.glob('*.dist-info') if not (p / 'RECORD').exists()]
    for path in [*broken, *site_packages.glob('~*')]:
        shutil.rmtree(path, ignore_errors=True)
    return sorted(path.name for path in broken)


class Setup:
    """The stages of one environment.

    Args:
        stack (Stack): Which packages.
        full (bool): Whether detection and the test tools belong to it.
        root (Path): The repository.
    """

    def __init__(self, stack: Stack, full: bool, root: Path = ROOT) -> None:
        self.stack = stack
        self.full = full
        self.root = root
        self.venv = root / stack.folder
        self.pins = Pins(root / 'requirements' / f'{stack.name}.txt')
        self.tests = root / 'requirements' / 'tests.txt'
        self.runner = Runner(self.venv / 'bin' / 'python', self.venv / 'setup.log')
        self.stamps = Stamps(self.venv / 'stamps')
        self.prebuilt = False
        self.mmcv = self.pins['mmcv'][0].partition('==')[0]

    def stages(self) -> list[Stage]:
        """Return the stages of this level, in order."""
        pins = self.pins
        everything = sorted(pins.sections.items())
        torch = pins.version('torch')
        light = digest('light', pins['light mmcv'])
        compiled = digest('compiled', pins['mmcv'], torch)
        stages = [
            Stage('venv', f'creating {self.venv.name}', digest(str(self.venv)), self._create),
            Stage(
                'torch',
                f'installing torch {torch} (about {self.stack.size}, a minute or two)',
                digest(pins['build'], pins['torch']),
                lambda: self._install('torch', *pins['build'], *pins['torch']),
            ),
            Stage(
                'packages',
                'installing the OpenMMLab packages for classification (about half a minute)',
                digest(everything),
                lambda: self._install('the packages', *pins['classification']),
            ),
        ]
        if self.full:
            tests = self.tests.read_text(encoding='utf-8')
            stages.append(
                Stage(
                    'full',
                    'installing detection, mim and the test tools (about half a minute)',
                    digest(everything, tests),
                    self._install_full,
                )
            )
            title = f'installing {self.mmcv} with its operators'
            stages.append(Stage('mmcv', title, compiled, self._install_compiled))
        else:
            title = f'installing {pins["light mmcv"][0].replace("==", " ")} without operators'
            stages.append(Stage('mmcv', title, light, self._install_light, (compiled,)))
        files = [self.root / name for name in PACKAGE_FILES]
        content = [path.read_bytes() if path.exists() else b'' for path in files]
        stages.append(
            Stage('package', 'installing kd_plugins itself', digest(content), self._install_self)
        )
        return stages

    def wheel(self, python_version: str) -> MmcvWheel:
        """Describe the wheel of mmcv with operators that fits this environment."""
        torch = self.pins.version('torch')
        major, minor = torch.split('.')[:2]
        on_cuda = platform.system() == 'Linux' and platform.machine() == 'x86_64'
        device = self.stack.cuda if on_cuda else 'cpu'
        return MmcvWheel(
            package=self.mmcv,
            version=self.pins.version(self.mmcv),
            torch=torch,
            python_tag='cp' + python_version.replace('.', ''),
            index=self.stack.index.format(device=device, major=major, minor=minor),
            cuda=mmcv_wheel.gpu_wanted(),
        )

    def existing_python(self) -> str | None:
        """Return the Python version of the environment, None if it does not work."""
        if not self.runner.python.exists():
            return None
        return version_of(str(self.runner.python))

    def check_before(self, python: str, version: str) -> None:
        """Find out what would fail later, before anything is downloaded."""
        wheel = self.wheel(version)
        if mmcv_wheel.cached(wheel, mmcv_wheel.cache_root()) is not None:
            return
        self.prebuilt = mmcv_wheel.prebuilt_listed(wheel)
        if not self.prebuilt:
            code = 'import sysconfig; print(sysconfig.get_paths()["include"])'
            reply = subprocess.run([python, '-c', code], capture_output=True, text=True)
            mmcv_wheel.require_compiler(wheel, reply.stdout.strip())

    def run(self) -> None:
        """Run the stages that are not done."""
        if not self._pending():
            return
        lock = self.root / f'{self.venv.name}.lock'
        waiting = f'another setup of {self.venv.name} is running; waiting for it ...'
        with mmcv_wheel.locked(lock, waiting) as descriptor:
            self.runner = Runner(self.runner.python, self.runner.log, (descriptor,))
            self._run_locked()

    def _pending(self) -> list[tuple[int, Stage]]:
        """Return what has to be done, with its number; everything in a new environment."""
        stages = self.stages()
        if self.existing_python() is None or not self.stamps.done(stages[0]):
            return list(enumerate(stages, 1))
        return pending(stages, self.stamps)

    def _run_locked(self) -> None:
        todo = self._pending()
        names = {stage.name for _, stage in todo}
        if not todo:
            return
        chosen = os.environ.get('PYTHON') or None
        existing = self.existing_python()
        if 'venv' in names:
            self.base = choose_python(self.stack, chosen)
        else:
            self.base = str(self.runner.python)
        version = version_of(self.base) or ''
        if existing not in (None, *self.stack.pythons):
            raise Failure(
                f'{self.venv.name} uses Python {existing}, which does not fit the '
                f'{self.stack.name} stack: remove it and run this again'
            )
        if 'mmcv' in names and self.full:
            self.check_before(self.base, existing or version)
        level = 'full' if self.full else 'classification'
        say(f'setting up {self.venv.name} ({self.stack.name} stack, {level})')
        count = len(self.stages())
        for number, stage in todo:
            begun = time.monotonic()
            say(f'[{number}/{count}] {stage.title} ...')
            if stage.name != 'venv':
                repair(self._site_packages())
            self.stamps.run(stage)
            say(f'      done in {duration(time.monotonic() - begun)}')

    def _site_packages(self) -> Path:
        return next((self.venv / 'lib').glob('python3*/site-packages'))

    def _create(self) -> None:
        """Make the environment, anew if what is there does not work."""
        moved = (self.stamps.folder / 'torch').exists()  # stamped, but for another path
        if moved or self.existing_python() is None:
            shutil.rmtree(self.venv, ignore_errors=True)
        self.venv.mkdir(exist_ok=True)
        base = Runner(Path(self.base), self.runner.log, self.runner.held)
        if base.run('-m', 'venv', self.venv) != 0:
            raise Failure(f'{self.base} could not create {self.venv}', self.runner.log)

    def _install(self, what: str, *arguments: object) -> None:
        """Run ``pip install`` under the stack's constraints."""
        self.runner.pip(
            *('install', '--no-build-isolation', '--constraint', self.pins.path, *arguments),
            failure=f'pip could not install {what}',
        )

    def _install_full(self) -> None:
        pins = self.pins
        wanted = [*pins['detection'], *pins['optional'], *pins['mim']]
        self._install('the packages', '-r', self.tests, *wanted)
        self._install('mim', '--no-deps', *pins['mim without its dependencies'])

    def _remove_mmcv(self) -> None:
        """Remove every mmcv, also a half-installed one that pip cannot uninstall."""
        packages = self._site_packages()
        for pattern in ('mmcv', 'mmcv-*', 'mmcv_lite-*', 'onedl_mmcv-*'):
            for path in packages.glob(pattern):
                shutil.rmtree(path)

    def _install_light(self) -> None:
        self._remove_mmcv()
        # Built in isolation, hence without torch, onedl-mmcv is light as well.
        self.runner.pip(
            *('install', '--no-deps', '--no-cache-dir', *self.pins['light mmcv']),
            failure='pip could not install the light mmcv',
        )
        self._try_import('mmcv', 'mmpretrain')

    def _install_compiled(self) -> None:
        wheel = self.wheel(self.existing_python() or '')
        path = mmcv_wheel.obtain(wheel, self.runner, self.prebuilt)
        self._remove_mmcv()
        self._install('mmcv', '--no-deps', path)
        self._try_import('mmcv.ops', 'mmpretrain', 'mmdet')

    def _try_import(self, *modules: str) -> None:
        if self.runner.run('-c', f'import {", ".join(modules)}') != 0:
            raise Failure(f'{" or ".join(modules)} cannot be imported', self.runner.log)

    def _install_self(self) -> None:
        self._install('kd_plugins', '--no-deps', '--editable', self.root)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--stack', default='official', help=' or '.join(STACKS))
    parser.add_argument('--level', default='full', choices=('classification', 'full'))
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.stack not in STACKS:
            raise Failure(f'STACK={options.stack} is unknown: choose {" or ".join(STACKS)}')
        Setup(STACKS[options.stack], options.level == 'full').run()
    except Failure as failure:
        if failure.log is not None:
            say(f'{tail(failure.log)}\n    (the full log is {failure.log})')
        print(f'error: {failure}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('interrupted; run the same command again to go on', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
