"""A store of a teacher's answers: whose they are, which are there, reading and writing them."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.dist import broadcast_object_list, get_rank
from mmengine.logging import MMLogger

from kd_plugins.files import records as files
from kd_plugins.teachers import encoding
from kd_plugins.teachers.agreement import AGREES, apart
from kd_plugins.teachers.identity import difference, plain
from kd_plugins.teachers.storable import KEY


class Key(NamedTuple):
    """Whose record it is.

    Args:
        sample: The index of the sample in the training set.
        view: Which view of it, from 0.
        picture: The hash of its picture.
    """

    sample: int
    view: int
    picture: int


class Store:
    """The records of one teacher about one training set, in a folder.

    Args:
        folder: The folder.
        header: What decides over the records, but for the training set.
        wanted: The names of the records that are read.
        max_bytes: What one record may take.
        writes: Whether what is missing is written, or kept in memory only.

    Attributes:
        header: The same, with ``data``, the training set, and ``records``, what can be said of
            each of them; of a complete store what its file says.
        told: How large it becomes, in words, as soon as that is known.

    Raises:
        ValueError: If it is another teacher's, or lacks records that are wanted.
    """

    def __init__(
        self,
        folder: str,
        header: Mapping[str, Any],
        wanted: Iterable[str],
        max_bytes: float,
        writes: bool = True,
    ) -> None:
        self.folder = folder
        self.header = dict(header)
        self.told = ''
        self._wanted = {*wanted}
        self._max_bytes = max_bytes
        self._writes = writes
        self._records: files.Records | None = None
        self._writer: files.Writer | None = None
        self._lock: files.Lock | None = None
        there = self._there()
        if there is None:
            return
        self._check(there)
        if not self._open(there).missing:
            self.header = there
        elif self._wanted != {*there['records']}:
            raise ValueError(
                f'{KEY}.dir={folder!r} is not complete, and holds more than '
                f'model.distiller.teacher_recorders ask for ({", ".join(there["records"])}): '
                'fill it with the config that it was begun with.'
            )

    @property
    def missing(self) -> int | None:
        """How many records are not there, as far as was looked; None of a store that is not."""
        return None if self._records is None else self._records.missing

    @property
    def begun(self) -> bool:
        """Whether a training has said what its pictures are."""
        return self._records is not None and 'data' in self.header

    def begin(self, data: Mapping[str, Any], wait: bool = False) -> None:
        """Make the folder, or compare it with this training.

        Args:
            data: What decides over the pictures.
            wait: Whether to wait for another job that writes, however long it takes.

        Raises:
            ValueError: If it is of other data, or another job is writing it.
        """
        self.header['data'] = plain(data)
        # One process makes the folder; what it finds wrong stops all.
        found: list[Exception | None] = [self._prepare(wait) if get_rank() == 0 else None]
        broadcast_object_list(found)
        if found[0] is not None:
            raise found[0]
        there = files.read_header(self.folder) if self._writes else self._there()
        if there is None and self._writes:
            raise ValueError(
                f'{KEY}.dir={self.folder!r} was made by the first process, and process '
                f'{get_rank()} does not see it: give a folder that all processes share.'
            )
        if there is not None:
            self._check(there)
        self._open(there or self.header)

    def _prepare(self, wait: bool) -> Exception | None:
        try:
            if self._is_complete() or not self._writes:
                return None
            Path(self.folder).mkdir(parents=True, exist_ok=True)
            if self._lock is None:
                self._lock = files.Lock(self.folder, math.inf if wait else None)
            # Whoever wrote until now may have made it, or filled it.
            if self._is_complete():
                self.release()
            elif self._there() is None:
                files.write_header(self.folder, self.header)
        except ValueError as error:
            self.release()
            return error
        except OSError as error:
            self.release()
            return ValueError(
                f'{KEY}.dir={self.folder!r} cannot be written ({error.strerror or error}): give a '
                'folder that can be, with room for the store.'
            )
        return None

    def _there(self) -> dict[str, Any] | None:
        """Return the header of what is stored; None where nothing is, whatever a file says.

        A training that was refused at its first batch leaves a header.
        """
        there = files.read_header(self.folder)
        return there if any(Path(self.folder).glob('*.records')) else None

    def _is_complete(self) -> bool:
        there = self._there()
        if there is None:
            return False
        self._check(there)
        return not self._open(there).missing

    def _open(self, header: Mapping[str, Any]) -> files.Records:
        self._records = files.Records(self.folder, header['data']['samples'], header['views'])
        return self._records

    def _check(self, there: Mapping[str, Any]) -> None:
        """Refuse a store of something else, naming what differs."""
        if there.get('format') != self.header.get('format'):
            raise ValueError(
                f'{KEY}.dir={self.folder!r} was filled by another version of kd_plugins (its '
                f'format is {there.get("format")}, and this one has {self.header["format"]}): '
                'delete it, or give another dir, and it is filled anew.'
            )
        has = {*there.get('records', ())}
        if not self._wanted <= has:
            raise ValueError(
                f'{KEY}.dir={self.folder!r} lacks {", ".join(sorted(self._wanted - has))}, which '
                f'model.distiller.teacher_recorders ask for; it has {", ".join(sorted(has))}: '
                'give another dir, which is filled with both.'
            )
        names = {*self.header} - {'records', 'classes'}
        ours = {name: self.header[name] for name in names}
        found = difference({name: there.get(name) for name in names}, ours)
        if found is not None:
            raise ValueError(
                f'{KEY}.dir={self.folder!r} was filled for another distillation ({found}): give '
                'what it was filled with, or another dir.'
            )

    def refresh(self) -> int:
        """Take in what other processes have written; return how many records are missing."""
        assert self._records is not None
        self._records.refresh()
        return self._records.missing

    def missing_of(self, view: int) -> np.ndarray:
        """Return the samples, in their order, whose record of this view is not there."""
        assert self._records is not None
        return self._records.missing_of(view)

    def lacks(self, keys: Sequence[Key]) -> bool:
        """Whether any of these is not there, nor waits to be written."""
        if all(key in self for key in keys):
            return False
        # Another process may have written them.
        self.refresh()
        return not all(key in self for key in keys)

    def __contains__(self, key: Key) -> bool:
        if self._writer is not None and key[:2] in self._writer.waiting:
            return True
        assert self._records is not None
        return key[:2] in self._records

    def read(self, key: Key) -> tuple[Any, Any]:
        """Return the layout and the bytes of a record.

        Raises:
            RecordsError: If it is of another picture, or broken.
        """
        assert self._records is not None
        layout: Any
        content: Any
        if self._writer is not None and key[:2] in self._writer.waiting:
            content, picture = self._writer.waiting[key[:2]]
            layout = self._writer.layout
        else:
            layout, content, picture = self._records.read(key.sample, key.view)
        if picture != key.picture:
            raise files.RecordsError(
                f'{KEY}.dir={self.folder!r}: the picture of sample {key.sample}, view {key.view} '
                'is not the one that the teacher has seen: the files, the pipeline or a version '
                'has changed; give what the store was filled with, or another dir.'
            )
        return layout, content

    def add(self, layout: Any, keys: Sequence[Key], contents: Sequence[bytes]) -> None:
        """Take what the teacher has said of a batch; what is there already has to agree.

        Raises:
            ValueError: If a record is too large or has another form than before, there is no
                room for all, or the teacher says something else than it did.
        """
        size = max(map(len, contents))
        if size > self._max_bytes:
            whole = size * self.header['data']['samples'] * self.header['views']
            raise ValueError(
                f'{KEY}.max_mb={self._max_bytes / 1e6:g} is less than a record takes, '
                f'{files.said(size)} a picture and view, and {files.said(whole)} in all: set it to '
                'more, or read less of the teacher.'
            )
        if self._writer is None:
            self._writer = self._begin_writing(layout, [*map(len, contents)])
        if layout != self._writer.layout:
            # They would be read by the layout of the first.
            kept = encoding.forms_of(self._writer.layout)
            name = next(key for key, form in encoding.forms_of(layout).items() if form != kept[key])
            raise ValueError(
                f'{KEY}: the record {name} has another form (tensors, dimensions or types) in this '
                'batch than in the first one: leave out the term that reads it, or the store.'
            )
        for key, content in zip(keys, contents, strict=True):
            if key in self:
                self._compare(key, layout, content)
            else:
                self._writer.add(*key, content)
        # A block may have been full.
        if self.refresh() == len(self._writer.waiting):
            self.flush()

    def _begin_writing(self, layout: Any, sizes: Sequence[int]) -> files.Writer:
        """Make sure that there is room for all records, and say how much they take."""
        assert self._records is not None
        if not self._writes:
            return files.Writer(None, layout, get_rank())
        writer = files.Writer(self.folder, layout, get_rank())
        size = sum(sizes) / len(sizes) + files.ROW.itemsize
        about = 'about ' if len({*sizes}) > 1 else ''
        whole = size * self.header['data']['samples'] * self.header['views']
        rest = size * self._records.missing
        free = files.free_bytes(self.folder)
        if rest > free:
            raise ValueError(
                f'{KEY}.dir={self.folder!r} has {files.said(free)} free, and {files.said(rest)} '
                f'are still to be stored ({files.said(size)} a picture and view): give a dir with '
                'more room.'
            )
        self.told = (
            f'{self.folder!r} will hold {about}{files.said(whole)} of the teacher '
            f'({files.said(size)} a picture and view); {files.said(rest)} are still to come, '
            f'{files.said(free)} are free'
        )
        MMLogger.get_current_instance().info(self.told)
        # At the end of the process as well.
        weakref.finalize(self, writer.close)
        return writer

    def _compare(self, key: Key, layout: Any, content: bytes) -> None:
        """Refuse a live answer that is not the stored one; it costs nothing more here.

        What heads say is not compared: norms over a whole map know how much the batch was padded.
        """
        kept_layout, kept_content = self.read(key)
        records = encoding.records_of(layout, content)
        stored = encoding.records_of(kept_layout, kept_content)
        kept_forms = encoding.forms_of(kept_layout)
        for name, form in encoding.forms_of(layout).items():
            if form != kept_forms[name]:
                raise self.several_forms()
            _, kinds = form
            for live, kept, (*_, stride, beyond) in zip(
                records[name], stored[name], kinds, strict=True
            ):
                if live.dtype.kind != 'f' or stride or beyond:
                    continue
                largest = np.abs(live.astype(np.float32)).max(initial=0)
                moved = apart(live, kept)
                if moved > AGREES * largest:
                    raise files.RecordsError(
                        f'{KEY}.dir={self.folder!r}: what is stored of sample {key.sample}, view '
                        f'{key.view} differs by {moved:.3g} from what the teacher says now: the '
                        'store is not of this teacher; give another dir.'
                    )

    def several_forms(self) -> files.RecordsError:
        """Return what is wrong with records that are not made of the same tensors."""
        return files.RecordsError(
            f'{KEY}.dir={self.folder!r} holds records of several forms: delete it, and it is '
            'filled anew.'
        )

    def flush(self) -> None:
        """Write what waits."""
        if self._writer is not None:
            self._writer.flush()
        self.refresh()

    def release(self) -> None:
        """Let other jobs write."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
