"""mmcv with compiled operators, for ``make setup OPS=compiled``.

A wheel fits one torch and one Python. So wheels are kept in a cache by both, and
none is taken from pip's or uv's. The sources stay unpacked until their wheel is
there: ninja goes on where a compilation was interrupted.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

PREBUILT = {  # pages of wheels
    'mmcv': 'https://download.openmmlab.com/mmcv/dist/{device}/torch{major}.{minor}.0/index.html',
    'onedl-mmcv': 'https://mmwheels.onedl.ai/{device}-torch{major}{minor}0/simple/onedl-mmcv/',
}
DESCRIBE = """
import importlib.metadata, os, sys, torch
cuda = torch.cuda.is_available() or os.environ.get('FORCE_CUDA') == '1'
device = 'cu' + torch.version.cuda.replace('.', '') if cuda else 'cpu'
print(importlib.metadata.version('torch'), 'cp%d%d' % sys.version_info[:2], device)
"""
NINJA_STEP = re.compile(r'\[\d+/\d+\]')
COMPILER_ERROR = re.compile(r'(?:fatal error|error|\w+Error): (?!subprocess-exited).+')


class Failure(Exception):
    """Something the user must know, in one sentence."""


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


def cache_root() -> Path:
    """Return the folder of wheels and of what they are compiled from."""
    if os.environ.get('KD_PLUGINS_CACHE'):
        return Path(os.environ['KD_PLUGINS_CACHE']).expanduser().resolve()
    return Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'kd_plugins'


@dataclass(frozen=True)
class Operators:
    """The wheel for one environment.

    Args:
        uv (Path): uv.
        python (Path): The environment's Python.
        package (str): mmcv's name on the package index.
        version (str): Its version.
    """

    uv: Path
    python: Path
    package: str
    version: str

    def install(self) -> None:
        """Install the wheel: the cache's, a prebuilt one, or one that is compiled now."""
        describe = subprocess.check_output([self.python, '-c', DESCRIBE], text=True)
        torch, tag, device = describe.split()
        key = f'{self.package}-{self.version}-torch{torch}-{tag}'
        if device != 'cpu':
            key += '-cuda'
        kept = cache_root() / 'wheels' / key
        if self._works(next(kept.glob('*.whl'), None)):
            return
        self._uv('pip', 'ninja', 'wheel')
        aside = kept.with_name(f'{key}.partial')
        shutil.rmtree(aside, ignore_errors=True)
        major, minor, *_ = torch.split('.')
        page = PREBUILT[self.package].format(device=device, major=major, minor=minor)
        say(f'looking for {self.package} {self.version} at {page}')
        only = ('--only-binary', ':all:', '--no-index', '--find-links', page)
        self._pip('download', *only, '--timeout', '8', '--retries', '0', '-d', aside, self._name)
        wheel = next(aside.glob('*.whl'), None)
        if not self._works(wheel):
            wheel = self._compile(key, aside)
            if not self._works(wheel):
                raise Failure(f'the compiled {self.package} {self.version} cannot be imported')
        assert wheel is not None
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        wheel.rename(kept / wheel.name)
        shutil.rmtree(aside)

    @property
    def _name(self) -> str:
        return f'{self.package}=={self.version}'

    def _uv(self, *arguments: str | Path) -> bool:
        command = [self.uv, 'pip', 'install', '--quiet', '--python', self.python, *arguments]
        return subprocess.run(command).returncode == 0

    def _pip(self, *arguments: str | Path) -> bool:
        command = [self.python, '-m', 'pip', '--quiet', '--no-cache-dir', *arguments, '--no-deps']
        return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0

    def _works(self, wheel: Path | None) -> bool:
        """Install the wheel and import its operators."""
        if wheel is None or not self._uv('--no-deps', '--no-cache', '--reinstall', wheel):
            return False
        return subprocess.run([self.python, '-c', 'import torch, mmcv._ext']).returncode == 0

    def _compile(self, key: str, aside: Path) -> Path:
        if shutil.which(os.environ.get('CXX', 'c++')) is None:
            raise Failure(
                'there is no C++ compiler for OPS=compiled: install one, for example '
                '`apt install g++`, or leave OPS out'
            )
        build = cache_root() / 'build'
        tree, log = build / key, build / f'{key}.log'
        if not (tree / 'setup.py').exists():
            shutil.rmtree(aside, ignore_errors=True)
            source = ('--no-binary', ':all:', '--no-build-isolation', '-d', aside)
            if not self._pip('download', *source, self._name):
                raise Failure(f'the source of {self._name} could not be downloaded')
            with tarfile.open(next(aside.glob('*.tar.gz'))) as archive:
                safe = {'filter': 'data'} if hasattr(tarfile, 'data_filter') else {}
                archive.extractall(aside, **safe)  # type: ignore[arg-type]
            shutil.rmtree(tree, ignore_errors=True)
            tree.parent.mkdir(parents=True, exist_ok=True)
            next(aside.glob('*/setup.py')).parent.rename(tree)
        say(f'compiling {self._name}: 7 to 17 minutes on two idle cores (log: {log})')
        options = ('-v', '--no-build-isolation', '--no-deps', '--no-cache-dir')
        command: list[str | Path] = [self.python, '-m', 'pip', 'wheel', *options, '-w', aside, tree]
        with (
            log.open('w', encoding='utf-8') as out,
            subprocess.Popen(
                command,
                env={'MAX_JOBS': str(os.cpu_count() or 1), **os.environ, 'MMCV_WITH_OPS': '1'},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors='replace',
            ) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                out.write(line)
                if step := NINJA_STEP.match(line.strip()):
                    print(f'\r{step[0]} ', end='', flush=True)
        print()
        if process.returncode != 0:
            error = COMPILER_ERROR.search(log.read_text(encoding='utf-8'))
            raise Failure(f'compiling failed: {error[0] if error else "see the log"} ({log})')
        shutil.rmtree(tree, ignore_errors=True)
        return next(aside.glob('*.whl'))


def install(uv: Path, python: Path, requirements: Path) -> None:
    """Install mmcv with operators, of the version that the stack has without."""
    pin = re.search(r'^((?:onedl-)?mmcv)(?:-lite)?==(\S+)', requirements.read_text(), re.M)
    assert pin is not None
    Operators(uv, python, *pin.groups()).install()
