"""One training: started or gone on with, validated, and its result kept."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import Tensor

from kd_plugins.experiments.data import DataRecord
from kd_plugins.experiments.environment import hardware, versions
from kd_plugins.experiments.identity import config_hash
from kd_plugins.experiments.memory import PeakMemory
from kd_plugins.experiments.metrics import HEADLINES, Headline, headline
from kd_plugins.experiments.results import (
    RESULT,
    STARTED,
    VALIDATIONS,
    Result,
    Run,
    finished,
    load_config,
    read_json,
)
from kd_plugins.files.writing import write_aside

#: Seconds to wait for a directory: what a killed run has started ends a little later.
LOCK_SECONDS = 10.0
#: Areas in square pixels between which COCO calls an object small, medium or large.
_AREAS = {'s': (0, 32**2), 'm': (32**2, 96**2), 'l': (96**2, 1e10)}
_ALL_AREAS = (0, 1e10)
#: Where logs of another config go that has trained in the same directory.
EARLIER = 'earlier'


class RunBusyError(RuntimeError):
    """Another process trains in the same directory."""


def run_once(run: Run, identity: str | None = None) -> Result:
    """Train, or go on training, and keep the result.

    Args:
        run: What to train.
        identity: The config hash that it had when it was asked for.

    Raises:
        RunBusyError: If another process trains in its directory.
        RuntimeError: If the config, or a file that it names, has changed since.
        ValueError: If it cannot be validated by a known metric.
    """
    cfg = load_config(run)
    now = config_hash(cfg)
    if identity not in (None, now):
        raise RuntimeError(
            f'{run.config!r} or a file that it names has changed since this run was asked for: '
            'start the command again, and leave them alone until the last seed has begun.'
        )
    with only_one(Path(run.work_dir)):
        return finished(run, now) or _train(run, cfg, now)


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Keep a directory for this process; the system frees it however the process ends.

    Raises:
        RunBusyError: If it is not free within :data:`LOCK_SECONDS`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + LOCK_SECONDS
    with open(folder / '.lock', 'a', encoding='utf-8') as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    break  # a file system without locks
            if time.monotonic() > deadline:
                raise RunBusyError(
                    f'{str(folder)!r} is in use: another process trains in it; wait until that has '
                    'ended, or give another work directory.'
                )
            time.sleep(0.1)
        yield


def _train(run: Run, cfg: Config, identity: str) -> Result:
    if cfg.get('resume') and cfg.get('load_from'):
        raise ValueError(
            f'load_from={cfg.load_from!r} with resume=True would give every run the seed of that '
            'checkpoint: leave out resume, and runs start from its weights with their own seeds.'
        )
    folder = Path(run.work_dir)
    used = _start(folder, identity)
    # Beside a load_from the Runner would resume from that, and not from what this run has saved.
    cfg.resume = (folder / 'last_checkpoint').is_file()
    if cfg.resume:
        cfg.load_from = None
    cfg.experiment_name = f'{run.name}_{run.seed}_{os.getpid()}_{time.time_ns()}'
    if cfg.get('visualizer'):
        # By a name of its own, as mmdet's configs have one, a process would write the scalars of
        # all its runs into the directory of the first.
        cfg.visualizer.name = cfg.experiment_name
    runner = Runner.from_cfg(cfg)
    curve, data = Validations(folder / VALIDATIONS), DataRecord(folder / STARTED, cfg.resume)
    runner.register_hook(curve)
    runner.register_hook(data)
    memory = PeakMemory()
    memory.start()
    model = runner.train()
    student = getattr(model, 'architecture', model)
    counted = curve.headline()
    result = Result(
        config_hash=identity,
        steps=sorted(curve.values),
        accuracy=[counted.percent * value for value in curve.of(counted.name)],
        predictions=curve.predictions if counted.is_top1 else [],
        parameters=sum(p.numel() for p in student.parameters()),
        seconds=sum(_seconds(runner, mode) for mode in ('train', 'val')),
        metrics={name: curve.of(name) for name in curve.names()},
        versions=used,
        hardware=hardware(),
        memory_mib=memory.read()[0],
        data=data.found,
    )
    write_aside(json.dumps(asdict(result)).encode(), folder / RESULT)
    return result


def _start(folder: Path, identity: str) -> dict[str, str]:
    """Note what is started; return the versions that this run was trained with so far."""
    before, used = read_json(folder / STARTED), versions()
    if before.get('config_hash') == identity:
        then = before.get('versions', {})
        for package in used:
            if then.get(package, used[package]) != used[package]:
                used[package] = f'{then[package]}, then {used[package]}'
    else:
        # What another config has left must not be resumed; noted only when it is gone.
        for name in ('last_checkpoint', VALIDATIONS):
            (folder / name).unlink(missing_ok=True)
        # Nor may its curves be read as those of this one.
        for log in [*folder.glob('*/vis_data')]:
            (folder / EARLIER).mkdir(exist_ok=True)
            log.parent.rename(folder / EARLIER / log.parent.name)
        before = {}
    note = dict(before, config_hash=identity, versions=used)
    write_aside(json.dumps(note).encode(), folder / STARTED)
    return used


class Validations(Hook):
    """Keep the metrics of every validation in a file, over interruptions.

    The checkpoint of an epoch is written before its validation, so what a
    resumed Runner remembers lacks that one.

    Args:
        path: The JSON file: epochs, or iterations in a training without them,
            and the metrics after so many.
    """

    # After the CheckpointHook, which prepares for validations before the training.
    priority = 'LOWEST'

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[int, dict[str, float]] = {
            int(step): metrics for step, metrics in read_json(path).items()
        }
        self.predictions: list[int] = []

    def names(self) -> list[str]:
        """Return the metrics that every validation gave."""
        first, *others = self.values.values()
        return [name for name in first if all(name in metrics for metrics in others)]

    def of(self, name: str) -> list[float]:
        """Return one metric in the order of the training."""
        return [self.values[step][name] for step in sorted(self.values)]

    def headline(self) -> Headline:
        """Return the metric that counts.

        Raises:
            ValueError: If there was no validation, its evaluator gives none of
                those that are known, or no picture has an object.
        """
        if not self.values:
            raise ValueError(
                'no validation has taken place: set train_cfg.val_interval and val_begin so that '
                'there is one.'
            )
        found = headline(self.names())
        if found is None:
            known = [each.name for each in HEADLINES]
            raise ValueError(
                f'val_evaluator gives {self.names()} and none of {known}: add the evaluator of '
                'top-1 or of COCO boxes, Accuracy or CocoMetric.'
            )
        for step, metrics in self.values.items():
            if found.value(metrics) is None:
                raise ValueError(
                    f'{found.name} is {metrics[found.name]:g} in the validation after {step}: '
                    'check val_evaluator.ann_file, whose pictures have no object of these classes.'
                )
        return found

    def before_train(self, runner: Runner) -> None:
        """Make up for a validation that the interruption cut off."""
        if runner.val_loop is None:
            raise ValueError(
                'val_cfg=None leaves nothing to report: give val_dataloader, val_evaluator and '
                'val_cfg.'
            )
        loop, step = runner.train_loop, self._step(runner)
        # What came after the checkpoint is trained, and validated, again.
        self.values = {k: metrics for k, metrics in self.values.items() if k <= step}
        end = loop.max_iters if isinstance(loop, IterBasedTrainLoop) else loop.max_epochs
        loop._decide_current_val_interval()
        for hook in runner.hooks:
            # Upstream's counts anew when a training goes on.
            if isinstance(hook, EarlyStoppingHook):
                for earlier in sorted(self.values):
                    hook.after_val_epoch(runner, self.values[earlier])
        end = step if getattr(loop, 'stop_training', False) else end
        due = step % loop.val_interval == 0 or step == end
        # The last one's predictions are kept nowhere else.
        missing = step not in self.values or step == end
        if due and missing and step >= max(loop.val_begin, 1):
            runner.val_loop.run()

    def before_val_epoch(self, runner: Runner) -> None:
        """Forget the predictions of the validation before."""
        self.predictions = []

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Note a classifier's predictions."""
        for sample in outputs if outputs is not None else ():
            if hasattr(sample, 'pred_label'):
                self.predictions.append(int(sample.pred_label))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Add one validation."""
        numbers = {k: float(v) for k, v in (metrics or {}).items() if _is_number(v)}
        for metric in runner.val_loop.evaluator.metrics:
            for name, value in _of_no_detection(metric).items():
                numbers.setdefault(name, value)
        self.values[self._step(runner)] = numbers
        # What gives no figure at the end gives none now, before the rest is trained.
        self.headline()
        write_aside(json.dumps(self.values).encode(), self.path)

    @staticmethod
    def _step(runner: Runner) -> int:
        by_iteration = isinstance(runner.train_loop, IterBasedTrainLoop)
        return runner.iter if by_iteration else runner.epoch


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) or (
        isinstance(value, Tensor) and value.numel() == 1
    )


def _of_no_detection(metric: Any) -> dict[str, float]:
    """Return what a ``CocoMetric`` leaves out where nothing was found at all.

    An average precision of 0, and COCO's -1 where there is no object to find.
    """
    kinds = {'bbox', 'segm'} & set(getattr(metric, 'metrics', None) or ())
    if getattr(metric, 'default_prefix', None) != 'coco' or metric.format_only or not kinds:
        return {}
    api = metric._coco_api
    ids = api.get_ann_ids(img_ids=metric.img_ids, cat_ids=metric.cat_ids)
    areas = [thing['area'] for thing in api.load_anns(ids) if not thing.get('iscrowd')]
    values = {}
    for item in metric.metric_items or ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l'):
        low, high = _AREAS.get(item.split('_')[-1], _ALL_AREAS)
        exists = any(low <= area <= high for area in areas)
        for kind in kinds:
            if item.startswith('mAP'):
                values[f'{metric.prefix}/{kind}_{item}'] = 0.0 if exists else -1.0
    return values


def _seconds(runner: Runner, mode: str) -> float:
    # Logged by mmengine's IterTimerHook and kept in checkpoints, so that a resumed run
    # counts what it did before.
    return float(sum(runner.message_hub.get_scalar(f'{mode}/time').data[0]))
