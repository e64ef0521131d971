"""Writing files so that an interruption leaves the old one or the new one."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

#: The name in ``backend_args=dict(backend=...)``.
ATOMIC = 'kd_plugins.atomic'


class CheckpointNotWrittenError(OSError):
    """A file could not be written; the one that was there before is intact."""


def write_aside(content: bytes | str, path: str | Path, shared: bool = False) -> None:
    """Write beside the file, reach the disk, then take the file's place.

    Makes the folder. A kill or a power cut at any moment leaves the old file or
    the new one, whole, and perhaps a ``.part`` beside it, which the next writing
    of the same file replaces.

    Args:
        content: What to write; text as UTF-8.
        path: The file.
        shared: Whether other processes may write the same file at the same moment. The ``.part``
            then has a name of its own, which no later writing replaces.

    Raises:
        CheckpointNotWrittenError: If the disk is full, or else refuses.
    """
    content = content.encode() if isinstance(content, str) else content
    path = Path(path)
    own = f'.{uuid.uuid4().hex}' if shared else ''
    part = path.with_name(f'{path.name}{own}.part')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync_folder(path.parent)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise CheckpointNotWrittenError(
            error.errno,
            f'{str(path)!r} could not be written ({len(content) / 1e6:.1f} MB: {error.strerror}); '
            'what was there before is intact: make room and go on with --resume.',
        ) from error


def _sync_folder(folder: Path) -> None:
    """Make a renaming survive a power cut, where folders can be opened."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems cannot, and have renamed already
    finally:
        os.close(handle)


class AtomicLocalBackend(LocalBackend):
    """mmengine's local backend, whose writings replace a file in one step."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes; see :func:`write_aside`."""
        write_aside(obj, filepath)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text; see :func:`write_aside`."""
        write_aside(obj.encode(encoding), filepath)


register_backend(ATOMIC, AtomicLocalBackend, force=True)
