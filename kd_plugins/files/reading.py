"""Reading checkpoint files without running what they contain.

A checkpoint is a pickle, and a pickle can name any function of any installed
module and have it called while it is read. :func:`load` reads both formats of
``torch.save`` by :mod:`kd_plugins.files.unpickling`, which knows the few globals
that weights, optimizer states and mmengine's logs are made of, and refuses a
file that names another one. :func:`install` puts it behind every scheme of
mmengine's ``CheckpointLoader``, so that teachers, ``load_from``, ``--resume``,
``init_cfg`` and the tools all read through it.
"""

from __future__ import annotations

import errno
import io
import os
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from torch.serialization import default_restore_location

from kd_plugins import checks
from kd_plugins.files.unpickling import NotAllowedError, Storage, unpickle

#: Set to 1, it reads files as upstream does: whatever they contain is run.
TRUST = 'KD_PLUGINS_TRUST_CHECKPOINTS'

# What files of torch.save begin with before torch 1.6: a number and a version.
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_CHUNK = 2**24


class UntrustedCheckpointError(ValueError):
    """A file asks for something that checkpoints do not need."""


class UnreadableCheckpointError(ValueError):
    """A file is no checkpoint, or only a part of one."""


def trusted() -> bool:
    """Whether the user has asked to read files whatever they contain."""
    return os.environ.get(TRUST, '0') == '1'


def load(file: Any, map_location: Any = None, *_: Any, **__: Any) -> Any:
    """Read a checkpoint as ``torch.load`` does, but only what is on the list.

    Nothing but the result changes, whatever the file says. A ``meta.config`` is
    left out of the result: mmengine would run it as a config on resuming.

    Args:
        file: A path or an open binary file.
        map_location: As in ``torch.load``; its other arguments are ignored.

    Returns:
        What the file holds.

    Raises:
        UntrustedCheckpointError: If it names anything beyond
            :data:`~kd_plugins.files.unpickling.MAKERS`, or asks for anything but data.
        UnreadableCheckpointError: If it is no checkpoint, or a part of one.
    """
    if trusted():
        return torch.load(file, map_location=map_location, weights_only=False)
    name = repr(os.fspath(file)) if isinstance(file, (str, os.PathLike)) else 'the file'
    try:
        with _opened(file) as stream:
            content = _read(stream, name, map_location)
    except NotAllowedError as error:
        raise UntrustedCheckpointError(
            f'{name} {error}, which no checkpoint of weights needs and which could run code or '
            'change this process while it is read, so it was not read: get a file that holds '
            'tensors only, or, if you trust its author as you would trust a program, set '
            f'{TRUST}=1.'
        ) from None
    except UntrustedCheckpointError:
        raise
    except _NotACheckpoint as error:
        raise _unreadable(name, str(error)) from None
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        # An archive that says that its parts lie before its beginning is an invalid argument.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        if str(error).startswith('Attempting to deserialize object on'):
            raise  # a device that this machine lacks, said clearly by torch
        said = (str(error).splitlines() or [''])[0][:200]
        raise _unreadable(name, f'{type(error).__name__}: {said}') from error
    if isinstance(content, dict) and isinstance(content.get('meta'), dict):
        content['meta'].pop('config', None)
    return content


class _NotACheckpoint(Exception):
    """Why a file is none."""


def _unreadable(name: str, why: str) -> UnreadableCheckpointError:
    return UnreadableCheckpointError(
        f'{name} is not a readable checkpoint ({why}): it was cut off while it was written or '
        'copied, or is another kind of file; give a complete one.'
    )


@contextmanager
def _opened(file: Any) -> Iterator[BinaryIO]:
    if isinstance(file, (str, os.PathLike)):
        with open(file, 'rb') as stream:
            yield stream
    else:
        yield file


def _read(stream: BinaryIO, name: str, map_location: Any) -> Any:
    start = stream.read(4)
    stream.seek(-len(start), os.SEEK_CUR)
    if start == b'PK\x03\x04':
        return _read_archive(stream, name, map_location)
    if start[:1] == b'\x80':
        return _read_legacy(_Whole(stream), map_location)
    raise _NotACheckpoint('another format' if start else 'empty')


def _read_archive(stream: BinaryIO, name: str, map_location: Any) -> Any:
    """Read what torch writes since 1.6: an archive of a pickle, and a file for each storage."""
    try:
        archive = zipfile.ZipFile(stream)
    except zipfile.BadZipFile:
        raise _NotACheckpoint('an archive that breaks off') from None
    members = {member.filename: member for member in archive.infolist()}
    if any(member.endswith(('/constants.pkl', '.py')) for member in members):
        raise UntrustedCheckpointError(
            f'{name} is a TorchScript program, not a checkpoint: give the state dict that it was '
            'made from.'
        )
    pickles = [member for member in members if member.split('/')[-1] == 'data.pkl']
    if not pickles:
        raise _NotACheckpoint('an archive without data.pkl')
    folder = pickles[0].removesuffix('data.pkl')
    swapped = (
        folder + 'byteorder' in members
        and archive.read(folder + 'byteorder').decode() != sys.byteorder
    )
    length = stream.seek(0, os.SEEK_END)
    found: dict[str, torch.UntypedStorage] = {}

    def storage(saved: Any) -> Storage:
        dtype, key, location, count, _ = _storage_id(saved)
        if key not in found:
            member = members[f'{folder}data/{key}']
            stored = member.compress_type == zipfile.ZIP_STORED
            if count > member.file_size or (stored and count > length):
                raise EOFError(f'storage {key} is larger than its file')
            whole = torch.UntypedStorage(count)
            with archive.open(member) as content:
                _fill(whole, content)
            if swapped:
                whole.byteswap(dtype)
            found[key] = _placed(whole, location, map_location)
        return Storage(dtype, found[key], 0, found[key].nbytes() // dtype.itemsize)

    return unpickle(io.BytesIO(archive.read(pickles[0])), storage)


def _read_legacy(stream: _Whole, map_location: Any) -> Any:
    """Read what torch wrote before 1.6: five pickles, then the bytes of the storages."""
    written: dict[Any, tuple[torch.dtype, torch.UntypedStorage]] = {}
    found: dict[Any, torch.UntypedStorage] = {}

    def storage(saved: Any) -> Storage:
        dtype, key, location, count, view = _storage_id(saved)
        if key not in found:
            stream.promise(count)
            written[key] = dtype, torch.UntypedStorage(count)
            found[key] = _placed(written[key][1], location, map_location)
        whole = found[key]
        start, size = view or (0, whole.nbytes() // dtype.itemsize)
        if (start + size) * dtype.itemsize > whole.nbytes():
            raise ValueError('a part of a storage does not lie within it')
        return Storage(dtype, whole, start, size)

    for number in (_MAGIC, _VERSION):
        start = unpickle(stream, storage)
        if type(start) is not int or start != number:
            raise _NotACheckpoint('another pickle')
    unpickle(stream, storage)  # what the machine was that wrote it
    content = unpickle(stream, storage)
    for key in unpickle(stream, storage):
        dtype, whole = written.pop(key)
        if int.from_bytes(stream.read(8), 'little') * dtype.itemsize != whole.nbytes():
            raise EOFError(f'storage {key} has another size')
        _fill(whole, stream)
        if sys.byteorder == 'big':
            whole.byteswap(dtype)
        if found[key].data_ptr() != whole.data_ptr() and found[key].device.type != 'meta':
            found[key].copy_(whole)
    if written:
        raise EOFError(f'{len(written)} storages are not in the file')
    return content


class _Whole:
    """A file that never gives, nor makes room for, more than it has."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        start = stream.tell()
        self._length = stream.seek(0, os.SEEK_END) - start
        self._promised = 0
        stream.seek(start)
        self.readline, self.tell = stream.readline, stream.tell

    def read(self, count: int) -> bytes:
        return self._stream.read(min(count, self._length))

    def readinto(self, buffer: memoryview) -> int:
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def promise(self, count: int) -> None:
        """Say that so many bytes will be read."""
        self._promised += count
        if self._promised > self._length:
            raise EOFError(f'storages of {self._promised} bytes in a file of {self._length}')


def _storage_id(saved: Any) -> tuple[torch.dtype, Any, str, int, tuple[int, int] | None]:
    """Take apart a persistent id: data type, key, device, bytes, and the part of a view."""
    kind = saved[0] if type(saved) is tuple and saved else saved
    if kind not in ('storage', b'storage'):
        # torch would compare a 'module' with its source, and write a file where they differ.
        what = repr(kind)[:40] if type(kind) in (str, bytes) else f'a {type(kind).__name__}'
        raise NotAllowedError(f'has {what} in the place of a storage')
    _, dtype, key, location, size, *more = saved
    view = more[0] if more else None
    if view is not None:
        view = view[1], view[2]
    numbers = (size, *(view or ()))
    if any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError('a storage whose size is no whole number')
    if type(dtype) is not torch.dtype or type(key) not in (str, int):
        raise ValueError('a storage without a data type or a key')
    location = location.decode() if type(location) is bytes else location
    if type(location) is not str:
        raise ValueError('a storage without a device')
    return dtype, key, location, size * dtype.itemsize, view


def _fill(whole: torch.UntypedStorage, content: Any) -> None:
    view = memoryview(torch.empty(0, dtype=torch.uint8).set_(whole).numpy())  # type: ignore[call-overload]
    done = 0
    while done < len(view):
        count = content.readinto(view[done : done + _CHUNK])
        if not count:
            raise EOFError(f'{len(view) - done} bytes of a storage are missing')
        done += count


def _placed(whole: torch.UntypedStorage, location: str, map_location: Any) -> Any:
    """Move a storage as ``torch.load`` does."""
    if callable(map_location):
        moved = map_location(whole, location)
        if moved is not None:
            return moved
    elif isinstance(map_location, dict):
        location = map_location.get(location, location)
    elif map_location is not None:
        location = map_location if isinstance(map_location, str) else str(map_location)
    return default_restore_location(whole, location)


def load_url(
    url: str,
    model_dir: str | None = None,
    map_location: Any = None,
    progress: bool = True,
    check_hash: bool = False,
    file_name: str | None = None,
) -> Any:
    """Read a checkpoint from an address, or from where an earlier call has put it.

    The arguments and the place are those of ``torch.hub.load_state_dict_from_url``.

    Raises:
        FileNotFoundError: If it cannot be fetched; upstream's error does not say what.
    """
    try:
        return _load_url(url, model_dir, map_location, progress, check_hash, file_name)
    except (URLError, ConnectionError, TimeoutError) as error:
        reason = getattr(error, 'reason', None) or checks.said(error)
        place = Path(model_dir or Path(torch.hub.get_dir(), 'checkpoints'))
        place /= file_name or Path(urlparse(url).path).name
        raise FileNotFoundError(
            f'{url!r} could not be fetched ({reason}): fetch it where the network reaches it, and '
            f'give the path of the file, or put it to {str(place)!r}.'
        ) from error


def _load_url(
    url: str,
    model_dir: str | None,
    map_location: Any,
    progress: bool,
    check_hash: bool,
    file_name: str | None,
) -> Any:
    if trusted():
        return torch.hub.load_state_dict_from_url(
            url, model_dir, map_location, progress, check_hash, file_name
        )
    folder = Path(model_dir or Path(torch.hub.get_dir(), 'checkpoints'))
    cached = folder / (file_name or Path(urlparse(url).path).name)
    if not cached.exists():
        folder.mkdir(parents=True, exist_ok=True)
        print(f'Downloading: "{url}" to {cached}', file=sys.stderr)
        digest = re.search(r'-([a-f0-9]*)\.', cached.name) if check_hash else None
        torch.hub.download_url_to_file(url, str(cached), digest and digest[1], progress)
    if zipfile.is_zipfile(cached):
        with zipfile.ZipFile(cached) as archive:
            # A checkpoint that somebody has put into an archive.
            if len(archive.namelist()) == 1:
                with archive.open(archive.namelist()[0]) as member:
                    return load(io.BytesIO(member.read()), map_location)
    return load(cached, map_location)


class _Torch(ModuleType):
    """torch, as mmengine's module of loaders sees it: everything is torch's but ``load``."""

    load = staticmethod(load)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def install(checkpoint: ModuleType) -> None:
    """Put :func:`load` behind every scheme of mmengine's ``CheckpointLoader``.

    Downloads, caches and barriers stay upstream's. Its loaders call each other, and
    end in one of these names of their module, which nothing else sees.

    Args:
        checkpoint: The module ``mmengine.runner.checkpoint``.
    """
    names: dict[str, Callable | ModuleType] = dict(torch=_Torch('torch'), load_url=load_url)
    if hasattr(checkpoint, '_safe_torch_load'):  # the maintained continuation's
        names['_safe_torch_load'] = load
    vars(checkpoint).update(names)
