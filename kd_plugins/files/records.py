"""Records of a teacher on disk: flat, appended to by one process each, mapped into memory by all.

A folder holds ``header.json``, which says whose records they are, and for every
process that has written a file of its own, ``*.records``. Such a file begins with the
layout of its records and goes on with blocks; a block is a head, a table of its
records and their bytes. Blocks are written whole and reach the disk before the next
one, and no file is appended to twice: a kill at any moment loses the block that was
not yet whole, which is passed over, and no two processes write one place.

All numbers are little-endian. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import struct
import time
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from mmengine.logging import print_log

from kd_plugins.files.writing import write_aside

HEADER = 'header.json'
#: What a file begins with, then the length of its layout, then the layout as JSON.
_FILE = struct.Struct('<8sI')
_FILE_MAGIC = b'kdrec\x00\x01\n'
#: What a block begins with: magic, records, the table's checksum, bytes after the table.
_BLOCK = struct.Struct('<8sIIQ')
_BLOCK_MAGIC = b'kdblock\n'
#: A row of a table: whose record it is, a hash of its picture, where it lies, its checksum.
ROW = np.dtype(
    [('sample', '<u4'), ('view', '<u4'), ('picture', '<u8'), ('at', '<u8'), ('size', '<u4'),
     ('checksum', '<u4')]
)  # fmt: skip
#: What is known of a record in memory: the row, the number of its file from 1, whether it was read.
_PLACE = np.dtype(
    [('picture', '<u8'), ('at', '<u8'), ('size', '<u4'), ('checksum', '<u4'), ('file', '<u4'),
     ('sound', '?')]
)  # fmt: skip
#: A block is written when it is so large (bytes) or so old (seconds).
BLOCK_BYTES, BLOCK_SECONDS = 2**22, 10.0
#: Seconds to wait for a job that writes, which may just be dying.
PATIENCE = 6.0


class RecordsError(ValueError):
    """A store is broken, or is another one."""


class RecordsNotWrittenError(OSError):
    """A block could not be written; those before it are whole."""


def read_header(folder: str | Path) -> dict[str, Any] | None:
    """Return what the header of a folder says; None where there is none yet.

    Raises:
        RecordsError: If it cannot be read.
    """
    path = Path(folder) / HEADER
    try:
        return dict(json.loads(path.read_text(encoding='utf-8')))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RecordsError(
            f'{str(path)!r} cannot be read ({error.strerror}): give a folder that can be.'
        ) from None
    except (ValueError, TypeError) as error:
        raise RecordsError(
            f'{str(path)!r} is no header of stored records ({error}): delete the folder, and it '
            'is filled anew.'
        ) from None


def write_header(folder: str | Path, header: Mapping[str, Any]) -> None:
    """Write the header of a folder, which it makes; see :func:`write_aside`."""
    write_aside(json.dumps(header, indent=1, sort_keys=True) + '\n', Path(folder) / HEADER)


class Lock:
    """Says that one job writes into a folder; it ends with the process at the latest.

    Args:
        folder: The folder.
        patience: Seconds to wait for another one to end, which is said at once where there is
            no end to it (``math.inf``); by default PATIENCE.

    Raises:
        RecordsError: If another job is writing.
        OSError: If the folder's file system has no locks.
    """

    def __init__(self, folder: str | Path, patience: float | None = None) -> None:
        import fcntl

        self._file = (Path(folder) / 'writing.lock').open('a+')
        patience = PATIENCE if patience is None else patience
        until, told = time.monotonic() + patience, False
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                self._file.seek(0)
                said = self._file.read().strip()
                if math.isinf(patience) and not told:
                    print_log(f'{str(folder)!r} is being written ({said}): waiting', 'current')
                    told = True
                if time.monotonic() < until:
                    time.sleep(0.2)
                    continue
                self._file.close()
                raise RecordsError(
                    f'{str(folder)!r} is being written by another job ({said}): wait until it has '
                    'ended, or give another folder.'
                ) from None
        self._file.truncate(0)
        self._file.write(f'process {os.getpid()} on {os.uname().nodename}')
        self._file.flush()

    def release(self) -> None:
        """Let others write."""
        import fcntl

        # Workers of a loader, which were forked meanwhile, hold the file open as well.
        fcntl.flock(self._file, fcntl.LOCK_UN)
        self._file.close()


class Records:
    """The records of a folder, by sample and view.

    Args:
        folder: The folder.
        samples: How many samples there are.
        views: How many views of each.

    Attributes:
        missing: How many records are not there.

    Raises:
        RecordsError: If a file is broken.
    """

    def __init__(self, folder: str | Path, samples: int, views: int) -> None:
        self.folder = Path(folder)
        self._places = np.zeros((views, samples), _PLACE)
        self._files: list[_File] = []
        self.missing = views * samples
        self.refresh()

    def __contains__(self, key: tuple[int, int]) -> bool:
        sample, view = key
        return bool(self._places['file'][view, sample])

    def missing_of(self, view: int) -> np.ndarray:
        """Return the samples, in their order, whose record of this view is not there."""
        return np.flatnonzero(self._places['file'][view] == 0)

    def refresh(self) -> None:
        """Take in what has been written since."""
        known = {file.path for file in self._files}
        paths = sorted(self.folder.glob('*.records'))
        self._files.extend(_File(path) for path in paths if path not in known)
        for number, file in enumerate(self._files, start=1):
            table = file.new_rows()
            if len(table):
                self._take_in(number, table)

    def _take_in(self, number: int, table: np.ndarray) -> None:
        views, samples = self._places.shape
        if table['view'].max() >= views or table['sample'].max() >= samples:
            raise RecordsError(
                f'{str(self.folder)!r} holds records of more samples or views than its header '
                f'says ({samples} and {views}): its files were mixed with those of another store; '
                'delete the folder, and it is filled anew.'
            )
        # Of two records of one view the first one counts.
        table = table[self._places['file'][table['view'], table['sample']] == 0]
        _, first = np.unique(table['view'].astype(np.int64) * samples + table['sample'], True)
        table = table[first]
        places = np.zeros(len(table), _PLACE)
        for name in ('picture', 'at', 'size', 'checksum'):
            places[name] = table[name]
        places['file'] = number
        self._places[table['view'], table['sample']] = places
        self.missing -= len(table)

    def read(self, sample: int, view: int) -> tuple[Any, memoryview, int]:
        """Return the layout of a record, its bytes, and the hash of its picture.

        Raises:
            KeyError: If it is not there.
            RecordsError: If it is broken.
        """
        picture, at, size, checksum, number, sound = self._places[view, sample].item()
        if not number:
            raise KeyError((sample, view))
        file = self._files[number - 1]
        content = file.bytes(at, size)
        if not sound:
            if zlib.crc32(content) != checksum:
                raise RecordsError(
                    f'{str(file.path)!r} is broken: the record of sample {sample}, view {view} has '
                    'another checksum than when it was written; delete this file, and what it held '
                    'is asked anew.'
                )
            self._places['sound'][view, sample] = True
        return file.layout, content, picture


class _File:
    """One file of records, which another process may be appending to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.layout: Any = None
        self._bytes = memoryview(b'')
        self._end = 0

    def bytes(self, at: int, size: int) -> memoryview:
        return self._bytes[at : at + size]

    def new_rows(self) -> np.ndarray:
        """Return the tables of the whole blocks that were not there the last time."""
        size = self.path.stat().st_size
        if size <= max(self._end, _FILE.size):
            return np.empty(0, ROW)
        mapped: Any = np.memmap(self.path, np.uint8, 'r')
        self._bytes = memoryview(mapped)
        if self.layout is None and not self._read_layout():
            return np.empty(0, ROW)
        tables = [np.empty(0, ROW)]
        while self._end + _BLOCK.size <= len(self._bytes):
            magic, count, checksum, length = _BLOCK.unpack(
                self._bytes[self._end : self._end + _BLOCK.size]
            )
            if magic == bytes(8):
                break  # a power cut left room that was never written
            begin = self._end + _BLOCK.size + count * ROW.itemsize
            if magic == _BLOCK_MAGIC and begin + length > len(self._bytes):
                break  # not whole, or not yet
            content = self._bytes[self._end + _BLOCK.size : begin]
            if magic != _BLOCK_MAGIC or zlib.crc32(content) != checksum:
                raise RecordsError(
                    f'{str(self.path)!r} is broken at byte {self._end}: no block of records lies '
                    'there; delete this file, and what it held is asked anew.'
                )
            table = np.frombuffer(content, ROW).copy()
            table['at'] += begin
            tables.append(table)
            self._end = begin + length
        return np.concatenate(tables)

    def _read_layout(self) -> bool:
        magic, length = _FILE.unpack(self._bytes[: _FILE.size])
        if magic != _FILE_MAGIC:
            raise RecordsError(
                f'{str(self.path)!r} is no file of records of this version: delete it, and what '
                'it held is asked anew.'
            )
        if len(self._bytes) < _FILE.size + length:
            return False
        self.layout = json.loads(bytes(self._bytes[_FILE.size : _FILE.size + length]))
        self._end = _FILE.size + length
        return True


class Writer:
    """Appends records to a file of its own, block by block.

    Args:
        folder: The folder; None to keep them in memory only.
        layout: What the records are made of, as JSON knows it.
        rank: The process's, for the name.
    """

    def __init__(self, folder: str | Path | None, layout: Any, rank: int = 0) -> None:
        self.layout = layout
        self._keeps = folder is None
        self.path = Path(folder or '.') / f'{time.time_ns():020d}-{rank}.records'
        self._file: IO[bytes] | None = None
        #: What is not written yet: rows by sample and view.
        self.waiting: dict[tuple[int, int], tuple[bytes, int]] = {}
        self._size = 0
        self._since = time.monotonic()
        #: Whether an error has said that something could not be written.
        self._told = False

    def add(self, sample: int, view: int, picture: int, content: bytes) -> None:
        """Take a record; write a block if it is full, or old.

        Raises:
            RecordsNotWrittenError: If the disk is full, or else refuses.
        """
        if not self.waiting:
            self._since = time.monotonic()
        self.waiting[sample, view] = content, picture
        self._size += len(content)
        if self._size >= BLOCK_BYTES or time.monotonic() - self._since > BLOCK_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits, and have it reach the disk.

        Raises:
            RecordsNotWrittenError: If the disk is full, or else refuses. What waits
                goes on waiting.
        """
        if not self.waiting or self._keeps:
            return
        table, at = np.empty(len(self.waiting), ROW), 0
        for row, ((sample, view), (content, picture)) in zip(
            table, self.waiting.items(), strict=True
        ):
            row['sample'], row['view'], row['picture'] = sample, view, picture
            row['at'], row['size'], row['checksum'] = at, len(content), zlib.crc32(content)
            at += len(content)
        head = _BLOCK.pack(_BLOCK_MAGIC, len(table), zlib.crc32(table.tobytes()), at)
        contents = (content for content, _ in self.waiting.values())
        self._append([head, table.tobytes(), *contents])
        self.waiting, self._size = {}, 0

    def _append(self, parts: Iterable[bytes]) -> None:
        begin = 0 if self._file is None else self._file.tell()
        try:
            if self._file is None:
                layout = json.dumps(self.layout).encode()
                # Without a buffer, which would be written once more when it is closed.
                self._file = self.path.open('xb', buffering=0)
                parts = [_FILE.pack(_FILE_MAGIC, len(layout)), layout, *parts]
            rest = memoryview(b''.join(parts))
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except BaseException as error:
            # An interruption as well: what waits is written once more at the end.
            self._take_back(begin)
            if not isinstance(error, OSError):
                raise
            self._told = True
            raise RecordsNotWrittenError(
                error.errno,
                f'{str(self.path)!r} could not be written ({self._size / 1e6:.1f} MB: '
                f'{error.strerror}); the records before are whole: make room and go on, a training '
                'with --resume.',
            ) from error

    def _take_back(self, begin: int) -> None:
        """Leave the file as it was before a block that could not be written."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fileno(), begin)
                self._file.seek(begin)
            if not begin:
                self._file.close()
                self.path.unlink()
                self._file = None

    def close(self) -> None:
        """Write what waits, and end; where it cannot be written, say so if nobody has said it."""
        told = self._told
        try:
            self.flush()
        except RecordsNotWrittenError as error:
            if not told:
                print_log(str(error), 'current', logging.ERROR)
        if self._file is not None:
            self._file.close()


def said(size: float) -> str:
    """Return a number of bytes in words."""
    for unit, name in ((1e12, 'TB'), (1e9, 'GB'), (1e6, 'MB')):
        if size >= unit:
            return f'{size / unit:.3g} {name}'
    return f'{size / 1e3:.3g} kB'


def free_bytes(folder: str | Path) -> int:
    """Return how much fits on the disk of a folder."""
    return shutil.disk_usage(folder).free
