"""The stacks: which packages, for which Pythons."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from console import Failure


@dataclass(frozen=True)
class Stack:
    """One of the two sets of packages; their versions are in requirements/.

    Args:
        name (str): Its name; ``requirements/NAME.txt`` holds the pins.
        pythons (tuple[str, ...]): Fitting Pythons, best first.
        cuda (str): The CUDA that its torch wheels bring on Linux.
        index (str): Pages of prebuilt mmcv wheels, by device and torch version.
        size (str): What torch's download amounts to.
    """

    name: str
    pythons: tuple[str, ...]
    cuda: str
    index: str
    size: str

    @property
    def folder(self) -> str:
        """Name of the environment's folder."""
        return '.venv' if self.name == 'official' else f'.venv-{self.name}'


STACKS = {
    'official': Stack(
        name='official',
        pythons=('3.11', '3.10'),
        cuda='cu121',
        index='https://download.openmmlab.com/mmcv/dist/{device}/torch{major}.{minor}.0/index.html',
        size='2.4 GB with CUDA libraries',
    ),
    'modern': Stack(
        name='modern',
        pythons=('3.11', '3.12', '3.13', '3.10'),
        cuda='cu130',
        index='https://mmwheels.onedl.ai/{device}-torch{major}{minor}0/simple/onedl-mmcv/index.html',
        size='2.6 GB with CUDA libraries',
    ),
}


class Pins:
    """The sections of a stack's requirement file.

    Args:
        path (Path): The file. A comment ``# [name]`` opens a section.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sections: dict[str, list[str]] = {}
        name = ''
        for line in path.read_text(encoding='utf-8').splitlines():
            heading = re.match(r'#\s*\[(.+)\]\s*$', line)
            if heading:
                name = heading.group(1)
            requirement = re.split(r'\s*(?:^|\s)#', line)[0].strip()
            if requirement:
                self.sections.setdefault(name, []).append(requirement)

    def __getitem__(self, section: str) -> list[str]:
        return self.sections[section]

    def version(self, package: str) -> str:
        """Return the version that ``package`` is pinned to."""
        for requirement in sum(self.sections.values(), []):
            name, _, version = requirement.partition('==')
            if name == package and version:
                return version
        raise Failure(f'{self.path} does not pin {package} with ==')


def version_of(python: str) -> str | None:
    """Return ``3.11`` for a Python that runs, None for anything else."""
    code = 'import sys; print("%d.%d" % sys.version_info[:2])'
    try:
        reply = subprocess.run([python, '-c', code], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return reply.stdout.strip() if reply.returncode == 0 else None


def on_path(names: Sequence[str]) -> list[str]:
    """Return every file of these names on the PATH: a version manager's may not run."""
    folders = os.environ.get('PATH', '').split(os.pathsep)
    paths = (Path(folder, name) for name in names for folder in folders if folder)
    return [str(path) for path in paths if path.exists()]


def choose_python(stack: Stack, chosen: str | None, default: str = sys.executable) -> str:
    """Return a Python for the environment.

    Args:
        stack (Stack): The stack that it must fit.
        chosen (str | None): What the user named; nothing else is tried then.
        default (str): What to prefer otherwise.
    """
    names = [f'python{version}' for version in stack.pythons]
    candidates = [chosen] if chosen else [default, *on_path(names)]
    versions = {python: version_of(python) for python in candidates}
    for python, version in versions.items():
        if version in stack.pythons:
            return python
    first = candidates[0]
    found = f'is {versions[first]}' if versions[first] else 'does not run'
    raise Failure(
        f'the {stack.name} stack needs Python {" or ".join(sorted(stack.pythons))}, but '
        f'{first} {found}: install one of them and name it, for example '
        f'`make setup STACK={stack.name} PYTHON=python{stack.pythons[0]}`'
    )
