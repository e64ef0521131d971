"""Reading what trainings have logged, from their work directories."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

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
    logged an iteration again, the later value counts. Without a distillation
    the whole loss is the ``task_loss`` too.

    Raises:
        FileNotFoundError: If there is none.
    """
    training = Training(name or work_dir.name)
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    if not files:
        raise FileNotFoundError(
            f'{str(work_dir)!r} holds no */vis_data/scalars.json: give the work directory of a '
            'training whose visualizer has a LocalVisBackend.'
        )
    for file in files:
        for line in file.read_text(encoding='utf-8').splitlines():
            row = json.loads(line)
            # What validations log has a step, and no iteration.
            curves, key = (training.train, 'iter') if 'iter' in row else (training.val, 'step')
            for item, value in row.items():
                if isinstance(value, (int, float)) and key in row:
                    curves.setdefault(item, {})[row[key]] = value
    if 'loss' in training.train and not any('distill' in name for name in training.train):
        # A student alone has only its task's loss, which is what others' is compared with.
        training.train.setdefault('task_loss', training.train['loss'])
    return training


def short_names(work_dirs: Iterable[Path]) -> dict[Path, str]:
    """Name directories by their last part, or by two where seeds end alike."""
    parts = {work_dir: work_dir.resolve().parts for work_dir in work_dirs}
    alike = len({names[-1] for names in parts.values()}) < len(parts)
    return {work_dir: '/'.join(names[-1 - alike :]) for work_dir, names in parts.items()}
