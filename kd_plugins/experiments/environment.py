"""What a training ran on: versions, devices, commit, command."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import kd_plugins

#: Both stacks' names of the packages that a result depends on.
PACKAGES = (
    'torch', 'torchvision', 'mmengine', 'onedl-mmengine', 'mmcv', 'mmcv-lite', 'onedl-mmcv',
    'mmpretrain', 'onedl-mmpretrain', 'mmdet', 'onedl-mmdetection', 'mmrazor', 'numpy',
)  # fmt: skip


def environment() -> dict[str, Any]:
    """Return all of it, as JSON can hold it."""
    return dict(
        time=time.strftime('%Y-%m-%dT%H:%M:%S%z'),
        command=sys.argv,
        versions=versions(),
        hardware=hardware(),
        commits=commits(),
    )


def versions() -> dict[str, str]:
    """Return the installed versions of what a result depends on."""
    found = {'python': sys.version.split()[0], 'kd_plugins': kd_plugins.__version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    if torch.version.cuda and torch.cuda.is_available():
        found['cuda'] = torch.version.cuda
        found['cudnn'] = str(torch.backends.cudnn.version())
    return found


def hardware() -> str:
    """Name the GPUs, or the processor."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if gpus:
        return ', '.join(gpus)
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(':')[1].strip() for line in lines if line.startswith('model name')]
    return f'{os.cpu_count()} cores' + (f' of {names[0]}' if names else '')


def commits() -> dict[str, str]:
    """Return the commits of kd_plugins and of the working directory, where git knows them."""
    # A file that git tracks: an installed package may lie in somebody else's repository.
    folders = {'kd_plugins': (Path(kd_plugins.__file__).parent, '__init__.py'),
               'working directory': (Path.cwd(), '.')}  # fmt: skip
    found = {}
    for name, (folder, tracked) in folders.items():
        if _git(folder, 'ls-files', '--error-unmatch', tracked) is not None:
            commit = _git(folder, 'describe', '--always', '--dirty', '--abbrev=40', '--match=')
            if commit:
                found[name] = commit
    return found


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        reply = subprocess.run(
            ['git', '-C', str(folder), *arguments], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return reply.stdout.strip() if reply.returncode == 0 else None
