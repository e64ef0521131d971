"""Filling the store of a teacher without training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import barrier, get_dist_info
from mmengine.model import is_model_wrapper
from torch.utils.data import DataLoader

from kd_plugins.teachers.storable import KEY
from kd_plugins.teachers.stored import StoredTeacher
from kd_plugins.views import SampleView


def fill(
    runner: Any, tell: Callable[[StoredTeacher, int, int], None] = lambda teacher, done, of: None
) -> int:
    """Ask the teacher for all records that its store lacks, and write them.

    Every process takes its share. What was written before an interruption is not asked
    again.

    Args:
        runner: The Runner of a training with ``model.teacher_cache``.
        tell: Is called after every batch with the teacher, how many records this
            process has written and how many it has to.

    Returns:
        How many records this process has written.

    Raises:
        ValueError: If the config has no store, or it is another one's.
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
    teacher.begin(given.dataset, runner.hooks)
    rank, ranks = get_dist_info()
    samples = [each[rank::ranks] for each in teacher.missing()]
    # What another process writes before would be missing in the count of this one.
    barrier()
    size: int = given.batch_size or getattr(given.batch_sampler, 'batch_size', 1)
    loader = DataLoader(
        given.dataset,
        batch_sampler=_Batches(samples, size),
        num_workers=given.num_workers,
        collate_fn=given.collate_fn,
        worker_init_fn=given.worker_init_fn,
    )
    done = 0
    for batch in loader:
        with torch.no_grad():
            data = model.data_preprocessor(batch, True)
        for part in (data, data.get('unlabelled')):
            if part is not None:
                recorders = model.distiller.teacher_recorders
                teacher.record(recorders, part['inputs'], part['data_samples'])
                done += len(part['data_samples'])
        tell(teacher, done, sum(map(len, samples)))
    teacher.end()
    if not teacher.complete:
        raise ValueError(
            f'{KEY}.dir={teacher.folder!r} still lacks records, which the training set did not '
            'give or another process did not write: start it again.'
        )
    return done


class _Batches:
    """Batches of samples, view by view; their indices are made as they are asked for.

    Args:
        samples: Those of every view.
        size: Of a batch.
    """

    def __init__(self, samples: Sequence[np.ndarray], size: int) -> None:
        self.samples = samples
        self.size = size

    def __iter__(self) -> Iterator[list[SampleView]]:
        for view, samples in enumerate(self.samples):
            for i in range(0, len(samples), self.size):
                yield [SampleView(int(j), view) for j in samples[i : i + self.size]]

    def __len__(self) -> int:
        return sum(-(-len(samples) // self.size) for samples in self.samples)
