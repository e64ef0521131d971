"""The wheel of mmcv with compiled operators: from the cache, prebuilt, or compiled.

A wheel fits one torch and one Python, so the cache is keyed by both. Wheels are
written aside, tried, and renamed into place: one that lies there is whole and
works. The build tree is kept until then, and ninja goes on in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tarfile
import threading
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from console import Failure, NinjaReader, PipReader, Progress, Runner, say

GIB = 1 << 30
COMPILER_ERROR = re.compile(r'((?:fatal error|error|\w+Error): (?!subprocess-exited).+)')


@dataclass(frozen=True)
class MmcvWheel:
    """Which wheel is wanted.

    Args:
        package (str): Its name on the package index.
        version (str): Its version.
        torch (str): The torch version that it is compiled against.
        python_tag (str): The Python that it is for, such as ``cp311``.
        index (str): Page of prebuilt wheels.
        cuda (bool): Whether its operators must run on a GPU.
    """

    package: str
    version: str
    torch: str
    python_tag: str
    index: str
    cuda: bool

    @property
    def key(self) -> str:
        """Name of its folder in the cache."""
        name = f'{self.package}-{self.version}-torch{self.torch}-{self.python_tag}'
        return name + '-cuda' if self.cuda else name


def cache_root(env: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of compiled wheels and build trees."""
    if env.get('KD_PLUGINS_CACHE'):
        return Path(env['KD_PLUGINS_CACHE']).expanduser().resolve()
    base = env.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(base).expanduser() / 'kd_plugins'


def cached(wheel: MmcvWheel, root: Path) -> Path | None:
    """Return the wheel if the cache has it whole."""
    for path in sorted((root / 'wheels' / wheel.key).glob('*.whl')):
        if zipfile.is_zipfile(path):
            return path
    return None


def gpu_wanted(env: Mapping[str, str] = os.environ) -> bool:
    """Whether operators for NVIDIA GPUs are to be built, without asking torch."""
    if env.get('FORCE_CUDA') == '1':
        return True
    hidden = env.get('CUDA_VISIBLE_DEVICES', '0').strip() in ('', '-1')
    return Path('/proc/driver/nvidia/version').exists() and not hidden


def prebuilt_listed(wheel: MmcvWheel, seconds: float = 8.0) -> bool:
    """Ask the page of prebuilt wheels, for at most ``seconds`` altogether."""
    page: list[bytes] = []

    def fetch() -> None:
        try:
            with urllib.request.urlopen(wheel.index, timeout=seconds) as reply:
                page.append(reply.read(1 << 22))
        except Exception:  # unreachable, or no such page: an ordinary answer
            pass

    thread = threading.Thread(target=fetch, daemon=True)  # name look-ups have no timeout
    thread.start()
    thread.join(seconds)
    name = f'{wheel.package.replace("-", "_")}-{wheel.version}-{wheel.python_tag}-'
    return bool(page) and name.encode() in page[0]


def require_compiler(wheel: MmcvWheel, python_include: str) -> None:
    """Raise :class:`Failure` if the wheel cannot be compiled here."""
    what = f"{wheel.package}'s operators have to be compiled once"
    compiler = os.environ.get('CXX', 'c++')
    if shutil.which(compiler) is None:
        raise Failure(
            f'{what}, and there is no C++ compiler ({compiler}): '
            'install one, for example `apt install g++`'
        )
    if not Path(python_include, 'Python.h').exists():
        raise Failure(
            f"{what}, and Python's headers are not in {python_include}: "
            'install them, for example `apt install python3-dev`'
        )
    cuda_home = os.environ.get('CUDA_HOME', '/usr/local/cuda')
    if wheel.cuda and not (shutil.which('nvcc') or Path(cuda_home, 'bin/nvcc').exists()):
        raise Failure(
            f'{what} for this GPU, and there is no CUDA compiler (nvcc): install the CUDA '
            'toolkit of this torch, or set CUDA_VISIBLE_DEVICES=-1 for CPU operators'
        )


def job_count(env: Mapping[str, str] = os.environ) -> int:
    """Return how many files to compile at once: one per core and per 2 GiB."""
    if env.get('MAX_JOBS', '').isdigit():
        return max(1, int(env['MAX_JOBS']))
    affinity = getattr(os, 'sched_getaffinity', None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    except (ValueError, OSError):
        return cores
    with contextlib.suppress(OSError, ValueError):  # inside a container
        memory = min(memory, int(Path('/sys/fs/cgroup/memory.max').read_text()))
    return max(1, min(cores, memory // (2 * GIB)))


@contextlib.contextmanager
def locked(path: Path, waiting: str) -> Iterator[int]:
    """Hold an exclusive lock; say ``waiting`` if somebody else has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a') as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(waiting)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle.fileno()


def obtain(wheel: MmcvWheel, runner: Runner, prebuilt: bool) -> Path:
    """Return the wheel, from wherever it is to be had soonest.

    Args:
        wheel (MmcvWheel): The wheel.
        runner (Runner): The environment with the torch to compile against.
        prebuilt (bool): Whether a prebuilt wheel is known to exist.
    """
    root = cache_root()
    waiting = f'      another process builds {wheel.key}; waiting for it ...'
    with locked(root / 'build' / f'{wheel.key}.lock', waiting) as descriptor:
        runner = replace(runner, held=(*runner.held, descriptor))
        found = cached(wheel, root)
        if found is None and prebuilt:
            found = _download(wheel, runner, root)
        return found or _compile(wheel, runner, root)


def _download(wheel: MmcvWheel, runner: Runner, root: Path) -> Path | None:
    """Fetch the prebuilt wheel; return None if it does not come or does not work."""
    say('      downloading the prebuilt wheel')
    aside = _fresh(root / 'wheels' / f'{wheel.key}.partial')
    page = ('--no-index', '--find-links', wheel.index, '--only-binary', ':all:')
    patience = ('--timeout', '10', '--retries', '0', '--no-cache-dir')
    name = f'{wheel.package}=={wheel.version}'
    runner.run('-m', 'pip', 'download', '--no-deps', *page, *patience, '-d', aside, name)
    return _admit(wheel, runner, root, aside)


def _compile(wheel: MmcvWheel, runner: Runner, root: Path) -> Path:
    """Compile the wheel, going on where an earlier attempt stopped."""
    tree = _source_tree(wheel, runner, root)
    log = root / 'build' / f'{wheel.key}.log'
    aside = _fresh(root / 'wheels' / f'{wheel.key}.partial')
    jobs = job_count()
    ready = sum(1 for _ in tree.glob('build/temp*/**/*.o'))
    resumed = f', going on after {ready} files' if ready else ''
    say(f'      compiling {wheel.package} {wheel.version} with {jobs} jobs{resumed} (log: {log})')
    # PEP 517 because pip's older way deletes the build tree when a file fails.
    pip = ('-m', 'pip', 'wheel', '-v', '--use-pep517', '--no-build-isolation', '--no-deps')
    status = replace(runner, log=log).run(
        *pip,
        *('--no-cache-dir', '-w', aside, tree),
        progress=Progress(NinjaReader(), every=30.0),
        MMCV_WITH_OPS='1',
        MAX_JOBS=str(jobs),
    )
    if status != 0:
        raise Failure(
            f'compiling {wheel.package} {wheel.version} failed: {compiler_error(log)}', log
        )
    found = _admit(wheel, runner, root, aside)
    if found is None:
        raise Failure(
            f'the compiled {wheel.package} {wheel.version} cannot be imported', runner.log
        )
    shutil.rmtree(tree, ignore_errors=True)
    return found


def compiler_error(log: Path) -> str:
    """Return the first error of the last run in a build log: pip's own come after it."""
    last_run = log.read_text(encoding='utf-8', errors='replace').rpartition('\n$ ')[2]
    match = COMPILER_ERROR.search(last_run)
    return match.group(1).strip() if match else 'see the log'


def _source_tree(wheel: MmcvWheel, runner: Runner, root: Path) -> Path:
    """Return the unpacked source, downloading it the first time."""
    tree = root / 'build' / wheel.key
    if (tree / 'setup.py').exists():
        return tree
    aside = _fresh(root / 'build' / f'{wheel.key}.partial')
    name = f'{wheel.package}=={wheel.version}'
    only_source = ('--no-binary', wheel.package, '--no-build-isolation', '--no-cache-dir')
    runner.pip(
        *('download', '--no-deps', *only_source, '-d', aside, name),
        failure=f'the source of {wheel.package} {wheel.version} could not be downloaded',
    )
    with tarfile.open(next(aside.glob('*.tar.gz'))) as archive:
        safe = {'filter': 'data'} if hasattr(tarfile, 'data_filter') else {}
        archive.extractall(aside, **safe)  # type: ignore[arg-type]
    shutil.rmtree(tree, ignore_errors=True)
    next(aside.glob('*/setup.py')).parent.rename(tree)
    shutil.rmtree(aside)
    return tree


def _admit(wheel: MmcvWheel, runner: Runner, root: Path, aside: Path) -> Path | None:
    """Move the wheel in ``aside`` into the cache if its operators can be imported."""
    found = next(aside.glob('*.whl'), None)
    if found is not None:
        trial = aside / 'trial'
        with zipfile.ZipFile(found) as archive:
            archive.extractall(trial)
        quiet = Progress(PipReader(), every=60.0)
        code = 'import mmcv.ops'
        if runner.run('-c', code, progress=quiet, cwd=trial, PYTHONPATH=str(trial)) != 0:
            found = None
    if found is not None:
        target = root / 'wheels' / wheel.key / found.name
        target.parent.mkdir(parents=True, exist_ok=True)
        found.rename(target)
        found = target
    shutil.rmtree(aside, ignore_errors=True)
    return found


def _fresh(folder: Path) -> Path:
    """Return the folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
