"""Reading checkpoint files without running what they contain.

A checkpoint is a pickle, and a pickle can name any function of any installed
module and have it called while it is read. :func:`load` knows the few globals
that weights, optimizer states and mmengine's logs are made of, and refuses a
file that names another one. :func:`install` puts it behind every scheme of
mmengine's ``CheckpointLoader``, so that teachers, ``load_from``, ``--resume``,
``init_cfg`` and the tools all read through it.
"""

from __future__ import annotations

import functools
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

#: Set to 1, it reads files as upstream does: whatever they contain is run.
TRUST = 'KD_PLUGINS_TRUST_CHECKPOINTS'

#: What weights, optimizer states and mmengine's logs are made of; torch's data
#: types and storages come on top. Both names of numpy's core, before and since
#: version 2. None of them runs code that a file brings along.
ALLOWED = frozenset(
    {
        ('collections', 'OrderedDict'),
        ('builtins', 'set'),
        ('builtins', 'slice'),
        ('_codecs', 'encode'),  # how pickle writes the bytes of numpy arrays
        ('torch', 'Size'),
        ('torch', 'device'),
        ('torch._utils', '_rebuild_tensor'),
        ('torch._utils', '_rebuild_tensor_v2'),
        ('torch._utils', '_rebuild_parameter'),
        ('numpy', 'ndarray'),
        ('numpy', 'dtype'),
        ('numpy.core.multiarray', '_reconstruct'),
        ('numpy.core.multiarray', 'scalar'),
        ('numpy._core.multiarray', '_reconstruct'),
        ('numpy._core.multiarray', 'scalar'),
        ('mmengine.logging.history_buffer', 'HistoryBuffer'),
        ('argparse', 'Namespace'),  # authors keep their options beside the weights; a plain record
    }
)

_torch_load = torch.load


class UntrustedCheckpointError(ValueError):
    """A file names something that checkpoints do not need."""


class UnreadableCheckpointError(ValueError):
    """A file is no checkpoint, or only a part of one."""


class _NotAllowed(Exception):
    """Carries the name of a refused global out of the unpickler."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # Protocol 2, which torch writes, has the builtins under their old name.
        module = 'builtins' if module == '__builtin__' else module
        if (module, name) == ('builtins', 'getattr'):
            return _statistic
        if module == 'torch' and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        # The pair is compared whole, so that no dotted name reaches into an allowed one.
        if (module, name) not in ALLOWED:
            raise _NotAllowed(f'{module}.{name}')
        return super().find_class(_numpy_core(module), name)


def _statistic(owner: Any, name: str) -> Any:
    """Stand in for ``getattr``, which mmengine's log buffers name their statistics by."""
    from mmengine.logging import HistoryBuffer

    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise _NotAllowed('builtins.getattr')
    return getattr(HistoryBuffer, name)


def _numpy_core(module: str) -> str:
    """Name numpy's core as the installed version does."""
    if not module.startswith(('numpy.core.', 'numpy._core.')):
        return module
    import numpy

    core = 'numpy._core.' if int(numpy.__version__.split('.')[0]) >= 2 else 'numpy.core.'
    return core + module.rsplit('.', 1)[1]


# What torch.load asks of a pickle module.
_PICKLE = SimpleNamespace(
    __name__='kd_plugins.files.reading',
    Unpickler=_Unpickler,
    load=lambda file, **kwargs: _Unpickler(file, **kwargs).load(),
)


def trusted() -> bool:
    """Whether the user has asked to read files whatever they contain."""
    return os.environ.get(TRUST, '0') == '1'


def load(file: Any, map_location: Any = None, **_: Any) -> Any:
    """Read a checkpoint as ``torch.load`` does, but only what is on the list.

    A ``meta.config`` is left out of the result: mmengine would run it as a
    config on resuming.

    Args:
        file: A path or an open binary file.
        map_location: As in ``torch.load``; its other arguments are ignored.

    Returns:
        What the file holds.

    Raises:
        UntrustedCheckpointError: If it names anything beyond :data:`ALLOWED`.
        UnreadableCheckpointError: If it is no checkpoint, or a part of one.
    """
    if trusted():
        return _torch_load(file, map_location=map_location, weights_only=False)
    name = repr(os.fspath(file)) if isinstance(file, (str, os.PathLike)) else 'the file'
    _check_kind(file, name)
    try:
        content = _torch_load(
            file,
            map_location=map_location,
            pickle_module=_PICKLE,
            weights_only=False,
        )
    except _NotAllowed as error:
        raise UntrustedCheckpointError(
            f'{name} names {error}, which no checkpoint of weights needs and which could run code '
            'while it is read, so it was not read: get a file that holds tensors only, or, if you '
            f'trust its author as you would trust a program, set {TRUST}=1.'
        ) from None
    except (OSError, MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        if str(error).startswith('Attempting to deserialize object on'):
            raise  # a device that this machine lacks, said clearly by torch
        raise _unreadable(
            name, f'{type(error).__name__}: {str(error).splitlines()[0][:200]}'
        ) from (error)
    if isinstance(content, dict) and isinstance(content.get('meta'), dict):
        content['meta'].pop('config', None)
    return content


def _check_kind(file: Any, name: str) -> None:
    """Let pass what ``torch.save`` writes, today's archives and yesterday's pickles."""
    with _opened(file) as stream:
        if zipfile.is_zipfile(stream):
            members = zipfile.ZipFile(stream).namelist()
            # torch.load would hand TorchScript, which is a program, to torch.jit.load.
            if any(member.endswith(('/constants.pkl', '.py')) for member in members):
                raise UntrustedCheckpointError(
                    f'{name} is a TorchScript program, not a checkpoint: give the state dict that '
                    'it was made from.'
                )
            if not any(member.endswith('data.pkl') for member in members):
                raise _unreadable(name, 'an archive without data.pkl')
            return
        stream.seek(0)
        start = stream.read(4)
        if start[:2] != b'\x80\x02':
            kind = 'an archive that breaks off' if start == b'PK\x03\x04' else 'another format'
            raise _unreadable(name, kind if start else 'empty')
        stream.seek(0)
        # The format before torch 0.1.10; unpacking it could write anywhere.
        if tarfile.is_tarfile(stream):
            raise _unreadable(name, 'a tar archive')


@contextmanager
def _opened(file: Any) -> Iterator[Any]:
    if isinstance(file, (str, os.PathLike)):
        with open(file, 'rb') as stream:
            yield stream
        return
    position = file.tell()
    yield file
    file.seek(position)


def _unreadable(name: str, why: str) -> UnreadableCheckpointError:
    return UnreadableCheckpointError(
        f'{name} is not a readable checkpoint ({why}): it was cut off while it was written or '
        'copied, or is another kind of file; give a complete one.'
    )


def install(checkpoint: ModuleType) -> None:
    """Put :func:`load` behind every scheme of mmengine's ``CheckpointLoader``.

    Args:
        checkpoint: The module ``mmengine.runner.checkpoint``.
    """
    loader = checkpoint.CheckpointLoader
    for prefix, read in list(loader._schemes.items()):
        loader.register_scheme(prefix, _guarded(read), force=True)


def _guarded(read: Callable[..., Any]) -> Callable[..., Any]:
    # Downloads, caches and barriers stay upstream's. The loaders call one another by
    # name and end in torch.load, which is therefore what is exchanged while they run.
    @functools.wraps(read)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        before = torch.load
        torch.load = load  # type: ignore[assignment]
        try:
            return read(*args, **kwargs)
        finally:
            torch.load = before

    return guarded
