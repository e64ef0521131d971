"""For EEKD and CheckpointKD: checkpoints of a training at even distances, to teach with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop

from kd_plugins import checks
from kd_plugins.files.writing import ATOMIC
from kd_plugins.registry import HOOKS


@HOOKS.register_module()
class EvenCheckpointHook(Hook):
    """Keep checkpoints after 1/M, 2/M, ..., M/M of a training.

    They go into a folder of their own in the work directory, called as mmengine
    calls checkpoints (``even/epoch_20.pth``, ``even/iter_2000.pth``), hold what is
    validated (an average's weights, where the training has one) and no optimizer, and
    are for ``model.teacher_ckpt=[...]`` of a student. ``max_keep_ckpts`` and
    ``--resume`` do not know them. Each is written before the checkpoint to resume
    from of the same moment, and whole or not at all; so a resumed training leaves
    the files of an undisturbed one.

    Args:
        number: M, at least 1 and at most the epochs of the training, or its
            iterations where it has no epochs.
        folder: The folder.

    Raises:
        ValueError: If it is longer than the training, or a setting is none.
        kd_plugins.files.writing.CheckpointNotWrittenError: If the disk is full.
    """

    # Before the CheckpointHook, which is VERY_LOW, after what averages weights.
    priority = 'LOW'

    def __init__(self, number: int = 5, folder: str = 'even') -> None:
        name = type(self).__name__
        self.number = checks.whole_number(f'{name}.number', number)
        if not isinstance(folder, str) or folder in ('', '.', '..') or Path(folder).name != folder:
            raise checks.refuse(
                f'{name}.folder', folder, 'the name of a folder in the work directory'
            )
        self.folder = folder
        self.by_epoch = True
        self.moments: list[int] = []

    def before_train(self, runner: Any) -> None:
        """Find the moments, and tell of files of other trainings, and of those that lack."""
        self.by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop) or runner.max_epochs > 1
        length = runner.max_epochs if self.by_epoch else runner.max_iters
        unit = 'epochs' if self.by_epoch else 'iterations'
        if self.number > length:
            raise checks.refuse(
                f'{type(self).__name__}.number', self.number, f'at most {length}, which is how '
                f'many {unit} the training has',
            )  # fmt: skip
        self.moments = moments(self.number, length)
        if not is_main_process():
            return
        begun = runner.epoch if self.by_epoch else runner.iter
        past = {self._name(step) for step in self.moments if step <= begun}
        there = {path.name for path in self._folder(runner).glob('*.pth')}
        if past - there:
            runner.logger.warning(
                f'{self._folder(runner)} lacks {", ".join(sorted(past - there))}: the training was '
                'without this hook then, and will leave fewer checkpoints to teach with.'
            )
        if there - past:
            runner.logger.warning(
                f'{self._folder(runner)} has {", ".join(sorted(there - past))} of an earlier '
                'training; do not teach with them before they are written anew.'
            )

    def after_train_epoch(self, runner: Any) -> None:
        """Write if it is time."""
        if self.by_epoch and runner.epoch + 1 in self.moments:
            self._write(runner, runner.epoch + 1)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Write if it is time, in a loop without epochs."""
        if not self.by_epoch and runner.iter + 1 in self.moments:
            self._write(runner, runner.iter + 1)

    def _write(self, runner: Any, step: int) -> None:
        runner.save_checkpoint(
            str(self._folder(runner)),
            self._name(step),
            save_optimizer=False,
            save_param_scheduler=False,
            meta={'epoch' if self.by_epoch else 'iter': step},
            by_epoch=self.by_epoch,
            backend_args=dict(backend=ATOMIC),
        )

    def _name(self, step: int) -> str:
        return f'{"epoch" if self.by_epoch else "iter"}_{step}.pth'

    def _folder(self, runner: Any) -> Path:
        return Path(runner.work_dir) / self.folder


def moments(number: int, length: int) -> list[int]:
    """Return the steps, counted from 1, that end the parts of a training.

    Args:
        number: How many parts, at most ``length``.
        length: The steps of the training.
    """
    return [round(i * length / number) for i in range(1, number + 1)]
