"""Filling the store of a teacher without training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from mmengine.dist import get_dist_info
from mmengine.model import is_model_wrapper
from torch.utils.data import DataLoader

from kd_plugins.teachers.stored import KEY, StoredTeacher
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
    teacher.begin(given.dataset)
    rank, ranks = get_dist_info()
    keys = [SampleView(sample, view) for sample, view in teacher.missing()[rank::ranks]]
    size: int = given.batch_size or getattr(given.batch_sampler, 'batch_size', 1)
    loader = DataLoader(
        given.dataset,
        batch_sampler=[keys[i : i + size] for i in range(0, len(keys), size)],
        num_workers=given.num_workers,
        collate_fn=given.collate_fn,
        worker_init_fn=given.worker_init_fn,
    )
    done = 0
    for batch in loader:
        with torch.no_grad():
            data = model.data_preprocessor(batch, True)
        teacher.record(model.distiller.teacher_recorders, data['inputs'], data['data_samples'])
        done += len(data['data_samples'])
        tell(teacher, done, len(keys))
    teacher.end()
    return done
