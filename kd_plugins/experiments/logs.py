"""Reading what trainings have logged, from their work directories."""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

#: Bytes at the end of a log among which its last lines are.
_TAIL = 2**16
#: name -> iteration, or epoch, -> value
Curves = dict[str, dict[int, float]]


@dataclass
class Training:
    """The scalars of one work directory.

    Args:
        name: What to call it.
        train: What iterations logged: name -> iteration -> value.
        val: What validations logged: name -> step -> value, the step being an
            epoch, or an iteration in a loop without epochs.
    """

    name: str
    train: Curves = field(default_factory=dict)
    val: Curves = field(default_factory=dict)


def read_training(work_dir: Path, name: str | None = None) -> Training:
    """Read every log that mmengine's ``LocalVisBackend`` has written for a training.

    Every start writes a ``<time>/vis_data/scalars.json``; where a resumed run
    logged an iteration again, the later value counts. A line that a kill has
    cut off is passed over, with a warning. Values need not be finite. Without a
    distillation the whole loss is the ``task_loss`` too.

    Raises:
        FileNotFoundError: If there is none.
    """
    training = Training(name or work_dir.name)
    files = log_files(work_dir)
    if not files:
        raise FileNotFoundError(
            f'{str(work_dir)!r} holds no */vis_data/scalars.json: give the work directory of a '
            'training whose visualizer has a LocalVisBackend.'
        )
    for file in files:
        for row in _rows(file):
            # What validations log has a step, and no iteration.
            curves, key = (training.train, 'iter') if 'iter' in row else (training.val, 'step')
            step = row.get(key)
            if not isinstance(step, int):
                continue
            for item, value in row.items():
                if isinstance(value, (int, float)):
                    curves.setdefault(item, {})[step] = value
    if 'loss' in training.train and not any('distill' in name for name in training.train):
        # A student alone has only its task's loss, which is what others' is compared with.
        training.train.setdefault('task_loss', training.train['loss'])
    return training


def log_files(work_dir: Path) -> list[Path]:
    """Return what each start of a training has logged, the latest last."""
    return sorted(work_dir.glob('*/vis_data/scalars.json'))


def last_logged(file: Path) -> dict[str, Any]:
    """Return what an iteration logged last, of a file that may be being written; {} if none did."""
    with file.open('rb') as log:
        log.seek(max(0, file.stat().st_size - _TAIL))
        lines = log.read().split(b'\n')
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and 'iter' in row:
            return row
    return {}


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """Yield what the lines of a log hold, but for those that are not whole."""
    torn = 0
    # Zeros are what some file systems leave of a line after a power cut.
    for line in file.read_bytes().decode(errors='replace').split('\n'):
        if not line.strip('\0 \r'):
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            yield row
        else:
            torn += 1
    if torn:
        lines = 'a line that is' if torn == 1 else f'{torn} lines that are'
        print_log(f'{file}: passed over {lines} cut off.', 'current', logging.WARNING)


def short_names(work_dirs: Iterable[Path]) -> dict[Path, str]:
    """Name directories by their last part, or by as many as tell them apart."""
    parts = {work_dir: work_dir.resolve().parts for work_dir in work_dirs}
    longest = max(map(len, parts.values()), default=1)
    for count in range(1, longest + 1):
        names = {work_dir: '/'.join(names[-count:]) for work_dir, names in parts.items()}
        if len(set(names.values())) == len(parts):
            break
    return names


def average(trainings: Sequence[Training], name: str) -> Training:
    """Return the mean over seeds of everything that was logged, in the band of their range.

    Args:
        trainings: Of one config; steps that not all of them have are left out.
        name: What to call it.
    """
    mean = Training(name)
    for kind in ('train', 'val'):
        every = [getattr(training, kind) for training in trainings]
        into: Curves = getattr(mean, kind)
        for item in every[0] if every else ():
            if not all(item in curves for curves in every):
                continue
            steps = [
                step for step in every[0][item] if all(step in curves[item] for curves in every)
            ]
            values = {step: [curves[item][step] for curves in every] for step in steps}
            into[item] = {step: statistics.fmean(each) for step, each in values.items()}
            if len(trainings) > 1:
                # What is a band already keeps its own.
                into.setdefault(f'{item}_min', {s: min(each) for s, each in values.items()})
                into.setdefault(f'{item}_max', {s: max(each) for s, each in values.items()})
    return mean
