"""A teacher whose answers are stored: each picture is shown to it once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from mmengine.dist import barrier
from mmengine.logging import MMLogger
from torch import Tensor, nn

from kd_plugins.files import records as files
from kd_plugins.networks import forked_random_states
from kd_plugins.recorders.building import recorders_of
from kd_plugins.recorders.stored import facts_of
from kd_plugins.teachers import encoding
from kd_plugins.teachers.agreement import Agreement, agreements, check_alone
from kd_plugins.teachers.base import Answer, Teacher
from kd_plugins.teachers.identity import data_identity, plain, teacher_identity
from kd_plugins.teachers.parts import Sizes, sizes_of
from kd_plugins.teachers.storable import (
    KEY,
    check_pictures,
    check_terms,
    record_names,
    settings_of,
)
from kd_plugins.teachers.store import Key, Store
from kd_plugins.teachers.watching import Watchers
from kd_plugins.views import check_one_pipeline, check_one_view

#: The version of what is in a header and in records, the hashes of pictures among it.
FORMAT = 4


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
            and what the others amount to at the temperatures ``taus``; ``min_score``, to
            keep of a detection head the anchors only that have a class at least so
            probable; ``write``, False to keep what is missing in memory only.
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
        self.views = settings['views']
        self._dtype = torch.float16 if settings['dtype'] == 'float16' else torch.float32
        self._top, self._min_score = None, settings['min_score']
        if settings['top_k'] is not None:
            self._top = encoding.Top(settings['top_k'], settings['taus'])
        self.build = build
        self._recorders = distiller.get('teacher_recorders') or {}
        self.data_preprocessor = data_preprocessor
        #: By the name of a recorder, the name of its records in the store.
        self._names = record_names(distiller)
        self._has_left = False
        #: What a picture was taken out of and shown alone: nothing, a batch of one, of several.
        self._checked = 0
        self._watchers = Watchers()
        header: dict[str, Any] = dict(
            plain(identity),
            format=FORMAT,
            views=self.views,
            dtype=settings['dtype'],
            top=None if self._top is None else dict(k=self._top.k, taus=list(self._top.taus)),
            min_score=self._min_score,
        )
        self.store = Store(
            settings['dir'],
            header,
            self._names.values(),
            1e6 * settings['max_mb'],
            settings['write'],
        )
        self._complete = self.store.missing == 0
        self.live: Teacher | None = None
        if self._complete:
            self.classes = self.store.header['classes']
            self.class_map = self.store.header['class_map']
            self.weights = f'the records in {self.folder!r}'
            MMLogger.get_current_instance().info(
                f'{self.folder!r} is complete: the teacher is not built.'
            )
        else:
            self.live = build()
            self.live.watch(self._watchers.tell_before, self._watchers.tell_after)

    @property
    def folder(self) -> str:
        """The folder of the store."""
        return self.store.folder

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
                facts=self.store.header['records'][kind],
            )
            for name, kind in self._names.items()
        }
        return dict(distiller, teacher_recorders=stored)

    def connect(self, distiller: Any) -> None:
        """See :meth:`Teacher.connect`."""
        from kd_plugins.distillers.protocols import protocol_of  # which imports teachers

        taus = () if self._top is None else self._top.taus
        check_terms(distiller, self._names, taus, self._min_score is not None)
        if self.live is None:
            return
        network, live = self.live.network, self.live
        assert network is not None
        recorders = distiller.teacher_recorders.recorders
        self.classes, self.class_map = live.classes, live.class_map
        self.weights = live.weights
        self.store.header.update(
            classes=plain(live.classes),
            records={
                kind: facts_of(recorders[name], network, protocol_of(network, recorders[name]))
                for name, kind in self._names.items()
            },
        )

    def begin(self, dataset: Any, hooks: Iterable[Any] = (), wait: bool = False) -> None:
        """See :meth:`Teacher.begin`; make the store, or compare it with this training.

        Args:
            dataset, hooks: As there.
            wait: Whether to wait for another job that writes, however long it takes.

        Raises:
            ValueError: If the store is of other data or another teacher, or another job
                is writing it, or a hook exchanges the augmentation.
        """
        check_one_pipeline(hooks, KEY)
        check_one_view(dataset, KEY)
        data = data_identity(dataset)
        if data['views'] != self.views:
            raise ValueError(
                f'{KEY}.views={self.views}, and the training set has {data["views"]}: give both '
                'the same.'
            )
        self.store.begin(data, wait)

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
        missing = self.store.lacks(keys)
        if missing:
            self._ask(recorders, inputs, data_samples, keys)
        else:
            self._watchers.tell_before()
        layouts, contents = zip(*(self.store.read(key) for key in keys), strict=True)
        if any(each is not layouts[0] and each != layouts[0] for each in layouts):
            raise self.store.several_forms()
        try:
            sizes = self._sizes(inputs, data_samples)
            encoding.check_padding(layouts[0], sizes)
            buffers = encoding.decode(
                layouts[0], contents, self._names.values(), sizes.batch, inputs.device
            )
        except encoding.NotStorableError as error:
            raise self._refused(error) from None
        for name, kind in self._names.items():
            recorder = recorders.get_recorder(name)
            recorder.reset_data_buffer()
            recorder.data_buffer.extend(buffers[kind])
        if not missing:
            self._watchers.tell_after(None, data_samples)

    def _keys(self, inputs: Tensor, data_samples: Sequence[Any] | None) -> list[Key]:
        """Return sample, view and the hash of its picture for every picture of a batch."""
        if not self.store.begun:
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
        # In a batch of one nothing is said of others.
        several = min(len(inputs), 2)
        if self._checked < several:
            self._check_alone(recorders, inputs, data_samples, layout, contents[0])
            self._checked = several
        self.store.add(layout, keys, contents)
        self._leave_if_complete()

    def _check_alone(
        self,
        recorders: Any,
        inputs: Tensor,
        data_samples: Sequence[Any] | None,
        layout: Mapping[str, Any],
        content: bytes,
    ) -> None:
        """Refuse records that are not one for each picture, whatever else is in its batch.

        A first dimension of tokens or layers may be as long as the batch. So the network is
        shown the first picture alone; that of a batch of one, twice.
        """
        assert self.live is not None
        count = 1 if len(inputs) > 1 else 2
        pictures, samples = torch.cat([inputs[:1]] * count), [*(data_samples or ())][:1] * count
        with forked_random_states(), self._watchers.away(), recorders:
            self.live.look(pictures, samples)
        alone, (said, *_) = self._encode(recorders, pictures, samples, self._dtype)
        records = encoding.records_of(layout, content), encoding.records_of(alone, said)
        try:
            check_alone(layout, *records)
        except encoding.NotStorableError as error:
            raise self._refused(error) from None

    def _encode(
        self,
        recorders: Any,
        inputs: Tensor,
        data_samples: Sequence[Any] | None,
        dtype: torch.dtype,
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Return the layout of what recorders have recorded, and the bytes of each sample."""
        sizes = self._sizes(inputs, data_samples)
        # Whatever the order in which a config has them.
        buffers = {
            kind: recorders.get_recorder(name).data_buffer
            for name, kind in sorted(self._names.items(), key=lambda item: item[1])
        }
        strides = {
            kind: facts['spec'][1]['strides']
            for kind, facts in self.store.header['records'].items()
            if facts['spec'] is not None and facts['spec'][0] == 'HeadSpec'
        }
        try:
            return encoding.encode(buffers, dtype, sizes, self._top, strides, self._min_score)
        except encoding.NotStorableError as error:
            raise self._refused(error) from None

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
            (encoding.records_of(layout, content), encoding.records_of(*self.store.read(key)))
            for key, content in zip(keys, contents, strict=True)
            if key in self.store
        ]
        return agreements(layout, pairs)

    def flush(self) -> None:
        """Write what waits; if everything is there, the network leaves the device."""
        if self.live is not None and self.store.begun:
            self.store.flush()
            self._leave_if_complete()

    def _leave_if_complete(self) -> None:
        if self.live is None or self.store.missing != 0 or self._has_left:
            return
        self._has_left = True
        MMLogger.get_current_instance().info(
            f'{self.folder!r} is complete: the teacher is not asked any more.'
        )
        self.store.release()
        self.live.follow(lambda network: network.to('cpu'))

    def end(self) -> None:
        """See :meth:`Teacher.end`; what all processes have said is written by then."""
        self.flush()
        barrier()
        self.release()
        if self.store.begun:
            self._complete = not self.store.refresh()

    def release(self) -> None:
        """Write what waits, and let other jobs write."""
        self.flush()
        self.store.release()

    def _sizes(self, inputs: Tensor, data_samples: Sequence[Any] | None) -> Sizes:
        divisor = getattr(self.data_preprocessor, 'pad_size_divisor', None) or 1
        return sizes_of(inputs, [sample.metainfo for sample in data_samples or ()], divisor)

    def _refused(self, error: encoding.NotStorableError) -> ValueError:
        cause = str(error)
        remedy = 'leave out the term that reads it, or the store'
        if 'in float16' in cause:
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
        return self._watchers.add(before, after)

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
    check_pictures(cfg, preprocessor, batch_parts)
    settings = (given[name] for name in ('input_size', 'dtype', 'class_map', 'inplace'))
    identity = teacher_identity(cfg, ckpt, preprocessor, *settings)
    return StoredTeacher(cache, build, identity, distiller, preprocessor)


_HASH = 2**64 - 1
