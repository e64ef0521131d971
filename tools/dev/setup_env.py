"""Make the environment of a stack, or complete it.

``make`` calls this before every target. uv does the work: it keeps what it has
downloaded, so an interrupted set-up goes on, and it sees in milliseconds that
nothing is to be done. Only the standard library is used here, since it runs before
anything is installed.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import compiled_operators
from compiled_operators import Failure, say

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / 'requirements'
PYTHONS = {'official': ('3.10', '3.11'), 'modern': ('3.10', '3.11', '3.12', '3.13')}


def get_uv() -> Path:
    """Return uv, of the pinned version, in an environment of its own."""
    uv = ROOT / '.venv-uv' / 'bin' / 'uv'
    pins = REQUIREMENTS / 'tests.txt'
    version = re.search(r'^uv==(\S+)', pins.read_text(encoding='utf-8'), re.M)
    assert version is not None
    if uv.exists() and version[1] in subprocess.check_output([uv, '--version'], text=True):
        return uv
    say('getting uv, which installs the rest ...')
    python = uv.with_name('python')
    make = [sys.executable, '-m', 'venv', '--clear', str(uv.parents[1])]
    install = [str(python), '-m', 'pip', 'install', '--quiet', '--constraint', str(pins), 'uv']
    for command in (make, install):
        if subprocess.run(command).returncode != 0:
            raise Failure('uv could not be installed: see above')
    return uv


def version_of(venv: Path) -> str:
    """Return ``3.11``, what an environment's settings say."""
    found = re.search(r'^version_info = (\d+\.\d+)', (venv / 'pyvenv.cfg').read_text(), re.M)
    return found[1] if found else 'unknown'


class Environment:
    """One environment in the repository's folder.

    It has a mark while its packages are whole, with its own path. Whatever has none was
    interrupted, moved, or made by an earlier version, and is made anew.

    Args:
        stack (str): ``official`` or ``modern``.
        compiled (bool): Whether mmcv's operators are compiled.
    """

    def __init__(self, stack: str, compiled: bool) -> None:
        self.stack = stack
        self.compiled = compiled
        name = '.venv' + ('' if stack == 'official' else f'-{stack}')
        self.venv = ROOT / (name + ('-compiled' if compiled else ''))
        self.python = self.venv / 'bin' / 'python'
        self.mark = self.venv / 'whole'
        self.operators = self.venv / 'operators'
        self.chosen = 'PYTHON' in os.environ

    def marked(self) -> bool:
        """Whether the last set-up here came to its end."""
        return self.mark.exists() and self.mark.read_text() == str(self.venv)

    def complete(self) -> None:
        """Install what is missing; say nothing where nothing is."""
        uv = get_uv()
        install: list[str | Path] = [uv, 'pip', 'install', '--python', self.python]
        install += ['-r', REQUIREMENTS / f'make-{self.stack}.txt']
        for name in ('excluded', 'compiled') if self.compiled else ('excluded',):
            install += ['--excludes', REQUIREMENTS / f'{name}.txt']
        if self.marked() and self.operators.exists() == self.compiled:
            self._require_fitting_python()
            if subprocess.run([*install, '--check', '--quiet'], cwd=ROOT).returncode == 0:
                return
        begun = time.monotonic()
        say(
            f'setting up {self.venv.name} ({self.stack} stack): a minute or two, '
            'mostly of downloads (3 GB the first time)'
        )
        if not self.marked():
            self._create(uv)
        self._require_fitting_python()
        for mark in (self.mark, self.operators):
            mark.unlink(missing_ok=True)
        # Otherwise onedl-mmcv compiles wherever it finds a torch.
        light = {**os.environ, 'MMCV_WITH_OPS': '0'}
        # Compiled now, since many machines keep Python from doing so: every start would
        # compile thousands of files, and warn of what is in them.
        compiled = [*install, '--compile-bytecode']
        if subprocess.run(compiled, cwd=ROOT, env=light).returncode != 0:
            raise Failure('uv could not install the packages: see above')
        self._show_to_mim()
        self.mark.write_text(str(self.venv))
        if self.compiled:
            compiled_operators.install(uv, self.python, REQUIREMENTS / f'{self.stack}.txt')
            self.operators.touch()
        say(f'{self.venv.name} is ready, after {time.monotonic() - begun:.0f} s')

    def _create(self, uv: Path) -> None:
        """Make the environment anew, with the Python that was named or one that fits."""
        pythons = PYTHONS[self.stack]
        here = f'{sys.version_info.major}.{sys.version_info.minor}'
        if self.chosen or here in pythons:
            wanted = sys.executable
        else:
            first, last = pythons[0], pythons[-1].split('.')
            wanted = f'>={first},<{last[0]}.{int(last[1]) + 1}'
        made = subprocess.run([uv, 'venv', '--quiet', '--clear', '--python', wanted, self.venv])
        if made.returncode != 0:
            raise Failure(
                f'the {self.stack} stack needs Python {" or ".join(pythons)}: install one of '
                f'them and name it, for example `make setup STACK={self.stack} '
                f'PYTHON=python{pythons[-1]}`'
            )

    def _show_to_mim(self) -> None:
        """Put a link where mim looks for a package's tools: beside its metadata."""
        for packages in self.venv.glob('lib/python*/site-packages'):
            link = packages / 'kd_plugins'
            if not link.exists():
                link.unlink(missing_ok=True)
                link.symlink_to(ROOT / 'kd_plugins')

    def _require_fitting_python(self) -> None:
        version = version_of(self.venv)
        here = f'{sys.version_info.major}.{sys.version_info.minor}'
        if version not in PYTHONS[self.stack]:
            fitting = ' or '.join(PYTHONS[self.stack])
            raise Failure(f'the {self.stack} stack needs Python {fitting}, not {version}')
        if self.chosen and version != here:
            raise Failure(
                f'{self.venv.name} has Python {version}, and PYTHON is {here}: remove the '
                'folder, or leave PYTHON out'
            )


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--stack', default='official', help=' or '.join(PYTHONS))
    parser.add_argument('--ops', default='light', help='light or compiled')
    options = parser.parse_args()
    try:
        if options.stack not in PYTHONS:
            raise Failure(f'STACK={options.stack} is unknown: choose {" or ".join(PYTHONS)}')
        if options.ops not in ('light', 'compiled'):
            raise Failure(f'OPS={options.ops} is unknown: choose light or compiled')
        with (ROOT / '.venv.lock').open('w') as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say('another set-up is running; waiting for it ...')
                fcntl.flock(lock, fcntl.LOCK_EX)
            Environment(options.stack, options.ops == 'compiled').complete()
    except Failure as failure:
        print(f'error: {failure}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('interrupted; run the same command again to go on', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
