"""Filling the store of a teacher without training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dist import barrier, get_dist_info
from mmengine.model import is_model_wrapper
from torch.utils.data import BatchSampler, DataLoader, Sampler

from kd_plugins.experiments.timing import now
from kd_plugins.teachers.storable import KEY
from kd_plugins.teachers.stored import StoredTeacher
from kd_plugins.views import SampleView
from kd_plugins.views.sampling import sampler_of

#: How many pictures that are stored already each process looks at again.
LOOKED_AT = 64


class Filled(NamedTuple):
    """What one process has done for a store.

    Args:
        written: How many records it has written.
        looked_at: How many pictures of earlier ones it has compared.
        seconds: What asking the teacher took, and writing.
        samples: How many pictures an epoch shows.
    """

    written: int
    looked_at: int
    seconds: float
    samples: int


def fill(
    runner: Any,
    tell: Callable[[StoredTeacher, int, int], None] = lambda teacher, done, of: None,
    verify: bool = False,
    wait: bool = False,
) -> Filled:
    """Ask the teacher for all records that its store lacks, and write them.

    Every process takes its share. What was written before an interruption is not asked
    again; of some of it, spread over all, the pictures are compared with those that the
    teacher has seen.

    Args:
        runner: The Runner of a training with ``model.teacher_cache``.
        tell: Is called after every batch with the teacher, how many pictures this
            process has loaded and how many it has to.
        verify: Compare all that was written before.
        wait: Wait for another job that fills the same store, however long it takes.

    Raises:
        ValueError: If the config has no store, it is another one's, or a picture has changed.
    """
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    teacher = vars(model).get('teacher')
    if not isinstance(teacher, StoredTeacher):
        raise ValueError(
            f"{KEY} is not set, so there is no store to fill: give dict(dir='...', views=...)."
        )
    given = runner.train_dataloader
    if not isinstance(given, DataLoader):
        given = runner.build_dataloader(given, seed=runner.seed)
    teacher.begin(given.dataset, runner.hooks, wait)
    rank, ranks = get_dist_info()
    missing, stored = [], []
    for view in range(teacher.views):
        lacking = teacher.store.missing_of(view)
        there = np.setdiff1d(np.arange(len(given.dataset)), lacking)[rank::ranks]
        missing.append(lacking[rank::ranks])
        step = 1 if verify else 1 + len(there) * teacher.views // LOOKED_AT
        stored.append(there[::step])
    # What another process writes before would be missing in the count of this one.
    barrier()
    # What has changed stops before anything is asked.
    wanted = _Wanted(given.dataset, [*enumerate(stored), *enumerate(missing)])
    loader = DataLoader(
        given.dataset,
        batch_sampler=_in_batches(given, wanted),
        num_workers=given.num_workers,
        collate_fn=given.collate_fn,
        worker_init_fn=given.worker_init_fn,
    )
    looked_at, to_write = (sum(map(len, each)) for each in (stored, missing))
    done, seconds = 0, 0.0
    for batch in loader:
        with torch.no_grad():
            data = model.data_preprocessor(batch, True)
        begun = now()
        for part in (data, data.get('unlabelled')):
            if part is not None:
                recorders = model.distiller.teacher_recorders
                teacher.record(recorders, part['inputs'], part['data_samples'])
                done += len(part['data_samples'])
        seconds += now() - begun if done > looked_at else 0
        tell(teacher, done, looked_at + to_write)
    teacher.end()
    if not teacher.complete:
        raise ValueError(
            f'{KEY}.dir={teacher.folder!r} still lacks records, which the training set did not '
            'give or another process did not write: start it again.'
        )
    # Some samplers draw a part of the training set in an epoch, or more than all.
    sizes = getattr(given.batch_sampler, 'batch_size', 1)
    largest = max(sizes) if isinstance(sizes, Sequence) else sizes
    of_epoch = min(len(sampler_of(given)), len(given) * largest)
    return Filled(done - looked_at, looked_at, seconds, of_epoch)


class _Wanted(Sampler):
    """Draws samples, view by view; their indices are made as they are asked for.

    Args:
        dataset: The training set, which batch samplers ask a sampler for.
        work: Views, and samples of each.
    """

    def __init__(self, dataset: Any, work: Sequence[tuple[int, np.ndarray]]) -> None:
        self.dataset = dataset
        self.work = work

    def __iter__(self) -> Iterator[SampleView]:
        for view, samples in self.work:
            yield from (SampleView(int(index), view) for index in samples)

    def __len__(self) -> int:
        return sum(len(samples) for _, samples in self.work)


def _in_batches(loader: DataLoader, wanted: _Wanted) -> Iterable[list[int]]:
    """Return all that is wanted in batches as a loader makes them.

    One that puts pictures of like shapes together pads them less, which detectors know.
    """
    given: Any = loader.batch_sampler
    if given is None:
        return BatchSampler(wanted, 1, drop_last=False)
    # It may keep what it has not given away yet.
    instead = {id(given.sampler): wanted, id(loader.dataset): loader.dataset}
    batches = copy.deepcopy(given, instead)
    batches.drop_last = False
    return batches
