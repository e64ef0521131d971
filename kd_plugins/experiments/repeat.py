"""Running configs over seeds, several at a time, and keeping what they gave.

A finished run leaves ``result.json`` in its work directory and is not run
again while its config stays the same; an interrupted one resumes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from kd_plugins.version import __version__

#: The metric that counts, by the task's evaluator, and what makes it percent.
METRICS = {'accuracy/top1': 1.0, 'coco/bbox_mAP': 100.0}


@dataclass(frozen=True)
class Run:
    """A config to train with a seed in a directory of its own."""

    name: str
    config: str
    seed: int
    work_dir: str


@dataclass(frozen=True)
class Result:
    """What a finished run gave; accuracies in percent, time in seconds.

    A classifier's accuracy is its top-1, a detector's COCO's average precision.
    """

    config_hash: str
    epochs: list[int]  # completed before each validation
    accuracy: list[float]  # at each of these validations
    predictions: list[int]  # a classifier's of the last epoch, in the validation set's order
    parameters: int
    seconds: float  # of all iterations, interrupted parts of the training included
    metrics: dict[str, list[float]] = field(default_factory=dict)  # all, as upstream gives them

    @property
    def last(self) -> float:
        """Accuracy at the end of the training."""
        return self.accuracy[-1]

    @property
    def best(self) -> float:
        """The best accuracy of any validation."""
        return max(self.accuracy)

    @property
    def metric(self) -> str:
        """Name of the metric that the accuracies are."""
        return next((name for name in METRICS if name in self.metrics), 'accuracy/top1')


def load_config(run: Run) -> Config:
    """Read the config of a run, with its seed and work directory."""
    cfg = Config.fromfile(run.config)
    cfg.work_dir = run.work_dir
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=run.seed)
    return cfg


def finished(run: Run) -> Result | None:
    """Return the result of a run, if there is one for the config as it is now."""
    path = Path(run.work_dir) / 'result.json'
    if not path.is_file():
        return None
    try:
        result = Result(**json.loads(path.read_text()))
    except TypeError:  # of a version that kept something else
        return None
    return result if result.config_hash == config_hash(load_config(run)) else None


def epochs_done(run: Run) -> int:
    """Return how many epochs a run has completed so far, from its checkpoints."""
    try:
        last = (Path(run.work_dir) / 'last_checkpoint').read_text()
        return int(Path(last).stem.split('_')[-1])
    except (FileNotFoundError, ValueError):
        return 0


def run_once(run: Run) -> Result:
    """Train, or go on training, and keep the result."""
    cfg = load_config(run)
    identity = config_hash(cfg)
    stamp, curve_file = (Path(run.work_dir) / name for name in ('config_hash', 'metrics.json'))
    started_before = stamp.is_file() and stamp.read_text() == identity
    if not started_before:
        # What another config has left must not be resumed; stamped only when it is gone.
        (Path(run.work_dir) / 'last_checkpoint').unlink(missing_ok=True)
        curve_file.unlink(missing_ok=True)
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(identity)
    cfg.resume = started_before
    cfg.experiment_name = f'{run.name}_{run.seed}_{os.getpid()}_{time.time_ns()}'
    runner = Runner.from_cfg(cfg)
    curve = _Curve(curve_file)
    runner.register_hook(curve)
    model = runner.train()
    student = getattr(model, 'architecture', model)
    metric = curve.metric()
    result = Result(
        config_hash=identity,
        epochs=sorted(curve.values),
        accuracy=[METRICS[metric] * value for value in curve.of(metric)],
        predictions=_predict(runner) if metric == 'accuracy/top1' else [],
        parameters=sum(p.numel() for p in student.parameters()),
        seconds=sum(_seconds(runner, mode) for mode in ('train', 'val')),
        metrics={name: curve.of(name) for name in curve.names()},
    )
    _write(Path(run.work_dir) / 'result.json', asdict(result))
    return result


def run_all(
    runs: Sequence[Run],
    jobs: int,
    log: Path,
    report: Callable[[Run, Result], None],
    tick: Callable[[], None] = lambda: None,
    devices: Sequence[int] = (),
) -> dict[Run, Result]:
    """Run what is not finished, ``jobs`` at a time with one thread each.

    Args:
        runs: What to run.
        jobs: How many at a time.
        log: Where the processes' own output goes.
        report: Called with every result, kept ones included.
        tick: Called about twice a second.
        devices: GPUs to spread the runs over; without, all use the default device.
    """
    results = {run: result for run in runs if (result := finished(run)) is not None}
    for run, result in results.items():
        report(run, result)
    todo = [run for run in runs if run not in results]
    if not todo:
        return results
    log.parent.mkdir(parents=True, exist_ok=True)
    # Forked processes would inherit mmengine's registries and torch's threads.
    context = get_context('spawn')
    turns = context.SimpleQueue()
    for job in range(jobs):
        turns.put(devices[job % len(devices)] if devices else None)
    with ProcessPoolExecutor(
        min(jobs, len(todo)),
        mp_context=context,
        initializer=_start_process,
        initargs=(str(log), turns),
    ) as pool:
        futures = {pool.submit(run_once, run): run for run in todo}
        pending = set(futures)
        try:
            while pending:
                try:
                    for future in as_completed(pending, timeout=0.5):
                        pending.discard(future)
                        results[futures[future]] = future.result()
                        report(futures[future], results[futures[future]])
                except TimeoutError:
                    pass
                tick()
        except BaseException:
            for future in futures:
                future.cancel()
            raise
    return results


def _start_process(log: str, turns: SimpleQueue[int | None]) -> None:
    device = turns.get()
    if device is not None:
        torch.cuda.set_device(device)
    # Threads of several runs would wait for each other's cores at every operation.
    torch.set_num_threads(1)
    with open(log, 'a', encoding='utf-8') as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    logging.captureWarnings(True)


def config_hash(cfg: Config) -> str:
    """Identify what a result depends on: the config, our version, the teacher's weights."""
    plain = {key: value for key, value in cfg.to_dict().items() if key != 'work_dir'}
    digest = hashlib.sha256(json.dumps([__version__, plain], sort_keys=True, default=str).encode())
    teacher = cfg.model.get('teacher_ckpt')
    if teacher and os.path.isfile(teacher):
        digest.update(Path(teacher).read_bytes())
    return digest.hexdigest()[:16]


class _Curve(Hook):
    """Keep the metrics of every validation in a file, over interruptions.

    The checkpoint of an epoch is written before its validation, so what a
    resumed Runner remembers lacks that one.
    """

    # After the CheckpointHook, which prepares for validations before the training.
    priority = 'LOWEST'

    def __init__(self, path: Path) -> None:
        self.path = path
        kept = json.loads(path.read_text()) if path.is_file() else {}
        self.values: dict[int, dict[str, float]] = {int(k): value for k, value in kept.items()}

    def names(self) -> list[str]:
        """Return the metrics that every validation gave."""
        first, *others = self.values.values()
        return [name for name in first if all(name in metrics for metrics in others)]

    def of(self, name: str) -> list[float]:
        """Return one metric in the order of epochs."""
        return [self.values[epoch][name] for epoch in sorted(self.values)]

    def metric(self) -> str:
        """Return the one that counts.

        Raises:
            KeyError: If the evaluator gives none of :data:`METRICS`.
        """
        for name in METRICS:
            if name in self.names():
                return name
        raise KeyError(
            f'val_evaluator gives {self.names()} and none of {list(METRICS)}: add the evaluator '
            'of top-1 or of COCO boxes, Accuracy or CocoMetric (which gives nothing where a '
            'detector found nothing).'
        )

    def before_train(self, runner: Runner) -> None:
        """Make up for a validation that the interruption cut off."""
        loop, epoch = runner.train_loop, runner.epoch
        due = epoch % loop.val_interval == 0 or epoch == loop.max_epochs
        if due and epoch >= max(loop.val_begin, 1) and epoch not in self.values:
            runner.val_loop.run()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Add one validation."""
        numbers = {k: float(v) for k, v in (metrics or {}).items() if isinstance(v, (int, float))}
        self.values[runner.epoch] = numbers
        _write(self.path, self.values)


def _write(path: Path, content: Any) -> None:
    """Write JSON so that an interruption leaves the old file or the new one."""
    path.with_suffix('.tmp').write_text(json.dumps(content))
    path.with_suffix('.tmp').replace(path)


def _seconds(runner: Runner, mode: str) -> float:
    # Logged by mmengine's IterTimerHook and kept in checkpoints, so that a resumed run
    # counts what it did before.
    return float(sum(runner.message_hub.get_scalar(f'{mode}/time').data[0]))


@torch.no_grad()
def _predict(runner: Runner) -> list[int]:
    runner.model.eval()
    samples: list[Any] = []
    for batch in runner.val_dataloader:
        samples.extend(runner.model.val_step(batch))
    return [int(sample.pred_label) for sample in samples]
