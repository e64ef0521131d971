"""A teacher whose answers are stored: each picture is shown to it once."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dist import barrier, broadcast_object_list, get_rank
from mmengine.logging import MMLogger
from torch import Tensor, nn

from kd_plugins.files import records as files
from kd_plugins.recorders.building import recorders_of
from kd_plugins.recorders.stored import facts_of
from kd_plugins.registry import name_of
from kd_plugins.teachers import encoding
from kd_plugins.teachers.agreement import AGREES, Agreement, agreement, apart
from kd_plugins.teachers.base import Answer, Teacher
from kd_plugins.teachers.identity import data_identity, difference, plain, teacher_identity
from kd_plugins.teachers.storable import KEY, check_terms, record_names, settings_of
from kd_plugins.views import check_no_batch_augments, check_one_pipeline

#: The version of what is in a header and in records.
FORMAT = 1


class StoredTeacher(Teacher):
    """A teacher that answers from a store, and is asked for what the store lacks.

    Where the store is complete there is no network: none is built, loaded or on the
    device. Where it is not, the network looks at every batch of which something is
    missing, whole, so that what is stored is what it said of that batch; what it says
    is stored, and what is stored is used, so that a training that fills a store is
    given the same numbers as one that reads it.

    A record belongs to one sample in one view, and has a hash of the picture of it.
    ``kd_plugins.RepeatableViews`` writes all three into the samples.

    Args:
        cache: ``model.teacher_cache``: ``dir``, a folder; ``views``, how many views a
            sample has; ``dtype``, ``'float16'`` or ``'float32'``; ``max_mb``, what one
            record may take, in MB (1e6 bytes); ``top_k``, to keep so many logits only,
            and what the others amount to at the temperatures ``taus``; ``write``,
            False to keep what is missing in memory only.
        build: Builds the teacher that is asked.
        identity: What :func:`~kd_plugins.teachers.identity.teacher_identity` says of it.
        distiller: The config of the distiller.
        data_preprocessor: The student's.

    Raises:
        ValueError: If a setting is wrong, the store is another teacher's, or a
            record of it cannot be stored.
    """

    def __init__(
        self,
        cache: Mapping[str, Any],
        build: Callable[[], Teacher],
        identity: Mapping[str, Any],
        distiller: Mapping[str, Any],
        data_preprocessor: nn.Module,
    ) -> None:
        settings = settings_of(cache)
        self.folder, self.views, self._writes = (settings[k] for k in ('dir', 'views', 'write'))
        self._dtype = torch.float16 if settings['dtype'] == 'float16' else torch.float32
        self._max_bytes = 1e6 * settings['max_mb']
        self._top = None
        if settings['top_k'] is not None:
            self._top = encoding.Top(settings['top_k'], settings['taus'])
        self.build = build
        self._recorders = distiller.get('teacher_recorders') or {}
        #: How large the store becomes, in words, as soon as that is known.
        self.told = ''
        self.data_preprocessor = data_preprocessor
        #: By the name of a recorder, the name of its records in the store.
        self._names = record_names(distiller)
        self._records: files.Records | None = None
        self._writer: files.Writer | None = None
        self._lock: files.Lock | None = None
        self._has_left = False
        self._watchers: list[tuple[Callable[..., None] | None, Callable[..., None] | None]] = []
        self._header: dict[str, Any] = dict(
            plain(identity),
            format=FORMAT,
            views=self.views,
            dtype=settings['dtype'],
            top=None if self._top is None else dict(k=self._top.k, taus=list(self._top.taus)),
        )
        header = files.read_header(self.folder)
        if header is not None:
            self._check_header(header)
        self._complete = header is not None and not self._open(header).missing
        if not self._complete:
            if header is not None and {*self._names.values()} != {*header['records']}:
                raise ValueError(
                    f'{KEY}.dir={self.folder!r} is not complete, and holds more than '
                    f'model.distiller.teacher_recorders ask for ({", ".join(header["records"])}): '
                    'fill it with the config that it was begun with.'
                )
            self.live: Teacher | None = build()
            return
        assert header is not None
        self.live = None
        self._header = header
        self.classes = header['classes']
        self.class_map = header['class_map']
        self.weights = f'the records in {self.folder!r}'

    @property
    def network(self) -> nn.Module | None:  # type: ignore[override]
        """The network that is asked; None where everything is stored."""
        return None if self.live is None else self.live.network

    @property
    def has_own_input(self) -> bool:  # type: ignore[override]
        """Whether the network declares a preprocessor of its own."""
        return self.live is not None and self.live.has_own_input

    @property
    def members(self) -> Sequence[Teacher]:  # type: ignore[override]
        """The teachers that the one that is asked is made of."""
        return () if self.live is None else self.live.members

    @property
    def complete(self) -> bool:
        """Whether every record of every view is in the store."""
        return self._complete

    def recording(self, distiller: Mapping[str, Any]) -> Mapping[str, Any]:
        """See :meth:`Teacher.recording`."""
        if self.live is not None:
            return distiller
        stored = {
            name: dict(
                type='kd_plugins.Stored',
                source=distiller['teacher_recorders'][name].get('source', kind),
                facts=self._header['records'][kind],
            )
            for name, kind in self._names.items()
        }
        return dict(distiller, teacher_recorders=stored)

    def connect(self, distiller: Any) -> None:
        """See :meth:`Teacher.connect`."""
        from kd_plugins.distillers.protocols import protocol_of  # which imports teachers

        if self._top is not None:
            check_terms(distiller, self._names, self._top.taus)
        if self.live is None:
            return
        network, live = self.live.network, self.live
        assert network is not None
        recorders = distiller.teacher_recorders.recorders
        self.classes, self.class_map = live.classes, live.class_map
        self.weights = live.weights
        self._header.update(
            classes=plain(live.classes),
            records={
                kind: facts_of(recorders[name], network, protocol_of(network))
                for name, kind in self._names.items()
            },
        )

    def begin(self, dataset: Any, hooks: Iterable[Any] = ()) -> None:
        """See :meth:`Teacher.begin`; make the store, or compare it with this training.

        Raises:
            ValueError: If the store is of other data or another teacher, or another job
                is writing it, or a hook exchanges the augmentation.
        """
        check_one_pipeline(hooks, KEY)
        data = data_identity(dataset)
        if data['views'] != self.views:
            raise ValueError(
                f'{KEY}.views={self.views}, and the training set has {data["views"]}: give both '
                'the same.'
            )
        self._header['data'] = plain(data)
        # One process makes the folder; what it finds wrong stops all.
        found: list[Exception | None] = [self._prepare() if get_rank() == 0 else None]
        broadcast_object_list(found)
        if found[0] is not None:
            raise found[0]
        header = files.read_header(self.folder)
        if header is None and self._writes:
            raise ValueError(
                f'{KEY}.dir={self.folder!r} was made by the first process, and process '
                f'{get_rank()} does not see it: give a folder that all processes share.'
            )
        if header is not None:
            self._check_header(header)
        self._open(header or self._header)

    def _prepare(self) -> Exception | None:
        try:
            header = files.read_header(self.folder)
            if header is not None:
                self._check_header(header)
                if not self._open(header).missing:
                    return None
            if not self._writes:
                return None
            if header is None:
                files.write_header(self.folder, self._header)
            if self._lock is None:
                self._lock = files.Lock(self.folder)
        except (ValueError, OSError) as error:
            return error
        return None

    def _open(self, header: Mapping[str, Any]) -> files.Records:
        self._records = files.Records(self.folder, header['data']['samples'], header['views'])
        return self._records

    def _check_header(self, header: Mapping[str, Any]) -> None:
        """Refuse a store of something else, naming what differs."""
        wanted, there = {*self._names.values()}, {*header.get('records', ())}
        if not wanted <= there:
            raise ValueError(
                f'{KEY}.dir={self.folder!r} lacks {", ".join(sorted(wanted - there))}, which '
                f'model.distiller.teacher_recorders ask for; it has {", ".join(sorted(there))}: '
                'give another dir, which is filled with both.'
            )
        names = {*self._header} - {'records', 'classes'}
        ours = {name: self._header[name] for name in names}
        found = difference({name: header.get(name) for name in names}, ours)
        if found is not None:
            raise ValueError(
                f'{KEY}.dir={self.folder!r} was filled for another distillation ({found}): give '
                'what it was filled with, or another dir.'
            )

    # What it does with numpy and files is nothing to compile.
    @torch.compiler.disable
    def record(
        self, recorders: Any, inputs: Tensor, data_samples: Sequence[Any] | None = None
    ) -> None:
        """See :meth:`Teacher.record`.

        Raises:
            RuntimeError: If no training has begun.
            ValueError: If samples do not say their view, if a picture is another one
                than that of its record, or if a record is broken or cannot be stored.
        """
        keys = self._keys(inputs, data_samples)
        records = self._records
        assert records is not None
        missing = [key for key in keys if not self._has(key)]
        if missing:
            # Another process may have written them.
            records.refresh()
            missing = [key for key in keys if not self._has(key)]
        # Where the network looks, it tells those who watch it.
        watchers = [] if missing else list(self._watchers)
        for before, _ in watchers:
            if before is not None:
                before()
        if missing:
            self._ask(recorders, inputs, data_samples, keys)
        layouts, contents = zip(*(self._read(key) for key in keys), strict=True)
        if any(each is not layouts[0] and each != layouts[0] for each in layouts):
            raise files.RecordsError(
                f'{KEY}.dir={self.folder!r} holds records of several forms: delete it, and it is '
                'filled anew.'
            )
        try:
            encoding.check_padding(layouts[0], _sizes(inputs, data_samples))
            buffers = encoding.decode(
                layouts[0], contents, self._names.values(), _size(inputs), inputs.device
            )
        except encoding.NotStorableError as error:
            raise self._refused(error) from None
        for name, kind in self._names.items():
            recorder = recorders.get_recorder(name)
            recorder.reset_data_buffer()
            recorder.data_buffer.extend(buffers[kind])
        for _, after in watchers:
            if after is not None:
                after(None, data_samples)

    def _keys(self, inputs: Tensor, data_samples: Sequence[Any] | None) -> list[Key]:
        """Return sample, view and the hash of its picture for every picture of a batch."""
        if self._records is None or 'data' not in self._header:
            raise RuntimeError(
                f'{KEY}: the store is opened when a training begins on the Runner, or by '
                'model.teacher.begin(data).'
            )
        samples = data_samples if isinstance(data_samples, (list, tuple)) else ()
        known = [getattr(sample, 'metainfo', {}) for sample in samples]
        if len(known) != len(inputs) or not all('view_hash' in info for info in known):
            raise ValueError(
                f'{KEY} needs samples that say their view, and these do not: put the training set '
                "into train_dataloader.dataset=dict(type='kd_plugins.RepeatableViews', dataset=..."
                f', views={self.views}).'
            )
        return [
            Key(int(info['sample_index']), int(info['view']), int(info['view_hash']) & _HASH)
            for info in known
        ]

    def _has(self, key: Key) -> bool:
        if self._writer is not None and key[:2] in self._writer.waiting:
            return True
        assert self._records is not None
        return key[:2] in self._records

    def _read(self, key: Key) -> tuple[Any, Any]:
        """Return the layout and the bytes of a record, if it is of this picture."""
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

    def _ask(
        self,
        recorders: Any,
        inputs: Tensor,
        data_samples: Sequence[Any] | None,
        keys: Sequence[Key],
    ) -> None:
        """Ask the network about a whole batch, and store what is not there yet."""
        if self.live is None:
            raise files.RecordsError(
                f'{KEY}.dir={self.folder!r} has lost records that it had when it was opened: start '
                'again, and they are asked anew.'
            )
        with recorders:
            self.live.look(inputs, data_samples)
        layout, contents = self._encode(recorders, inputs, data_samples, self._dtype)
        if self._writer is None:
            self._begin_writing(layout, max(map(len, contents)))
        assert self._writer is not None
        for key, content in zip(keys, contents, strict=True):
            if self._has(key):
                self._compare(key, encoding.arrays_of(layout, content))
            else:
                self._writer.add(*key, content)
        assert self._records is not None
        # A block may have been full.
        self._records.refresh()
        if self._writes and self._records.missing == len(self._writer.waiting):
            self.flush()

    def _begin_writing(self, layout: Any, size: int) -> None:
        """Make sure that there is room for all records, and say how much they take."""
        assert self._records is not None
        whole = size * self._header['data']['samples'] * self.views
        rest = size * self._records.missing
        self._writer = files.Writer(self.folder if self._writes else None, layout, get_rank())
        if size > self._max_bytes:
            raise ValueError(
                f'{KEY}.max_mb={self._max_bytes / 1e6:g} is less than a record takes, '
                f'{files.said(size)} a picture and view, and {files.said(whole)} in all: set it to '
                'more, or read less of the teacher.'
            )
        if not self._writes:
            return
        free = files.free_bytes(self.folder)
        if rest > free:
            raise ValueError(
                f'{KEY}.dir={self.folder!r} has {files.said(free)} free, and {files.said(rest)} '
                f'are still to be stored ({files.said(size)} a picture and view): give a dir with '
                'more room.'
            )
        self.told = (
            f'{self.folder!r} will hold {files.said(whole)} of the teacher ({files.said(size)} a '
            f'picture and view); {files.said(rest)} are still to come, {files.said(free)} are free'
        )
        MMLogger.get_current_instance().info(self.told)
        # At the end of the process as well.
        weakref.finalize(self, self._writer.close)

    def _encode(
        self,
        recorders: Any,
        inputs: Tensor,
        data_samples: Sequence[Any] | None,
        dtype: torch.dtype,
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Return the layout of what recorders have recorded, and the bytes of each sample."""
        sizes = _sizes(inputs, data_samples)
        buffers = {
            kind: recorders.get_recorder(name).data_buffer for name, kind in self._names.items()
        }
        strides = {
            kind: facts['spec'][1]['strides']
            for kind, facts in self._header['records'].items()
            if facts['spec'] is not None and facts['spec'][0] == 'HeadSpec'
        }
        try:
            return encoding.encode(buffers, dtype, sizes, self._top, strides)
        except encoding.NotStorableError as error:
            raise self._refused(error) from None

    def _compare(self, key: Key, said: Sequence[np.ndarray]) -> None:
        """Refuse a live answer that is not the stored one; it costs nothing more here.

        Maps are not compared: norms over a whole map know how much the batch was padded.
        """
        layout, content = self._read(key)
        arrays = encoding.arrays_of(layout, content)
        for live, stored, (_, _, stride, _) in zip(said, arrays, layout['parts'], strict=True):
            if live.dtype.kind != 'f' or stride:
                continue
            largest = np.abs(live.astype(np.float32)).max(initial=0)
            moved = apart(live, stored)
            if moved > AGREES * largest:
                raise files.RecordsError(
                    f'{KEY}.dir={self.folder!r}: what is stored of sample {key.sample}, view '
                    f'{key.view} differs by {moved:.3g} from what the teacher says now: the store '
                    'is not of this teacher; give another dir.'
                )

    def missing(self) -> list[np.ndarray]:
        """Return for every view the samples whose record is not there."""
        assert self._records is not None
        return [self._records.missing_of(view) for view in range(self.views)]

    def against_live(
        self, inputs: Tensor, data_samples: Sequence[Any] | None = None
    ) -> list[Agreement]:
        """Return how far what is stored of a batch is from what the network says now.

        Builds and loads the network if there is none.

        Raises:
            FileNotFoundError: If its checkpoint is not here.
        """
        live = self.live or self.build()
        recorders = recorders_of(self._recorders)
        assert live.network is not None
        recorders.initialize(live.network)
        with recorders:
            live.look(inputs, data_samples)
        layout, contents = self._encode(recorders, inputs, data_samples, torch.float32)
        keys = self._keys(inputs, data_samples)
        pairs = [
            (encoding.arrays_of(layout, content), encoding.arrays_of(*self._read(key)))
            for key, content in zip(keys, contents, strict=True)
            if self._has(key)
        ]
        return [
            agreement(
                kind,
                [(a[first:last], b[first:last]) for a, b in pairs],
                any(stride for _, _, stride, _ in layout['parts'][first:last]),
            )
            for kind, (_, first, last) in layout['forms'].items()
        ]

    def flush(self) -> None:
        """Write what waits; if everything is there, the network leaves the device."""
        if self.live is None or self._records is None:
            return
        if self._writer is not None:
            self._writer.flush()
        # Other processes write, too.
        self._records.refresh()
        if self._records.missing or self._has_left:
            return
        self._has_left = True
        MMLogger.get_current_instance().info(
            f'{self.folder!r} is complete: the teacher is not asked any more.'
        )
        self._unlock()
        self.live.follow(lambda network: network.to('cpu'))

    def end(self) -> None:
        """See :meth:`Teacher.end`; what all processes have said is written by then."""
        self.flush()
        barrier()
        self.release()
        if self._records is not None:
            self._records.refresh()
            self._complete = not self._records.missing

    def release(self) -> None:
        """Write what waits, and let other jobs write."""
        self.flush()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _refused(self, error: encoding.NotStorableError) -> ValueError:
        cause = str(error)
        remedy = 'leave out the term that reads it, or the store'
        if 'not finite in float16' in cause:
            remedy = "set its dtype='float32'"
        elif 'is padded to' in cause:
            remedy = 'bring all pictures to one size in the pipeline, or leave out the store'
        return ValueError(f'{KEY}: {cause}: {remedy}.')

    def look(self, inputs: Tensor, data_samples: Sequence[Any] | None = None) -> Any:
        """See :meth:`Teacher.look`; None where there is no network."""
        return None if self.live is None else self.live.look(inputs, data_samples)

    def look_for_features_only(self) -> None:
        """See :meth:`Teacher.look_for_features_only`."""
        if self.live is not None:
            self.live.look_for_features_only()

    def answer(self, question: Callable[[nn.Module], Answer]) -> Answer:
        """See :meth:`Teacher.answer`; recorders with questions are refused beforehand."""
        raise RuntimeError(f'{KEY} cannot answer what it was not asked when it was filled.')

    def convert(self, inputs: Tensor, data_samples: Sequence[Any] | None = None) -> Tensor:
        """See :meth:`Teacher.convert`."""
        return inputs if self.live is None else self.live.convert(inputs, data_samples)

    def predict(self, inputs: Tensor, data_samples: Sequence[Any] | None = None) -> Any:
        """See :meth:`Teacher.predict`.

        Raises:
            RuntimeError: If there is no network.
        """
        if self.live is None:
            raise RuntimeError(f'{KEY}: everything is stored, and there is no network to predict.')
        return self.live.predict(inputs, data_samples)

    def watch(
        self, before: Callable[..., None] | None = None, after: Callable[..., None] | None = None
    ) -> Callable[[], None]:
        """See :meth:`Teacher.watch`; what the network returned is None where none was asked."""
        watcher = before, after
        self._watchers.append(watcher)
        stop = None if self.live is None else self.live.watch(before, after)

        def remove() -> None:
            if watcher in self._watchers:
                self._watchers.remove(watcher)
            if stop is not None:
                stop()

        return remove

    def follow(self, change: Callable[[nn.Module], Any]) -> None:
        """See :meth:`Teacher.follow`."""
        if self.live is not None:
            self.live.follow(change)


def store_teacher(
    build: partial[Teacher],
    cache: Mapping[str, Any],
    distiller: Mapping[str, Any],
    batch_parts: Sequence[Any] = (),
) -> StoredTeacher:
    """Build the teacher of an algorithm with a store of its answers.

    Args:
        build: A call of :func:`~kd_plugins.teachers.building.build_teacher`.
        cache: ``model.teacher_cache``.
        distiller: The config of the distiller.
        batch_parts: ``model.batch_parts``.

    Raises:
        ValueError: If it cannot be stored; see :class:`StoredTeacher`.
    """
    cfg, ckpt = build.args
    given = build.keywords
    preprocessor = given['preprocessor']
    if cfg is None or isinstance(cfg, str):
        raise ValueError(
            f'{KEY} is of a teacher that stays as it is, and model.teacher={cfg!r}: leave it out.'
        )
    check_no_batch_augments(preprocessor, KEY)
    if batch_parts:
        raise ValueError(
            f'{KEY} cannot stand beside model.batch_parts='
            f'{[name_of(each.get("type")) for each in batch_parts]}, which change pictures after '
            'they are loaded, in another way in every batch: leave one of them out.'
        )
    identity = teacher_identity(
        cfg, ckpt, preprocessor, given['input_size'], given['dtype'], given['class_map']
    )
    return StoredTeacher(cache, build, identity, distiller, preprocessor)


class Key(NamedTuple):
    """Whose record it is."""

    sample: int
    view: int
    picture: int


def _sizes(inputs: Tensor, data_samples: Sequence[Any] | None) -> encoding.Sizes:
    infos = [sample.metainfo for sample in data_samples or ()]
    own = [info.get('pad_shape', inputs.shape[-2:])[:2] for info in infos]
    return encoding.Sizes(_size(inputs), own)


def _size(inputs: Tensor) -> tuple[int, int]:
    return inputs.shape[-2], inputs.shape[-1]


_HASH = 2**64 - 1
