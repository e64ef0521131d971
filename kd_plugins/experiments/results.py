"""Runs, and what they have left: results, progress."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from kd_plugins import checks
from kd_plugins.experiments.environment import versions
from kd_plugins.experiments.identity import config_hash
from kd_plugins.experiments.metrics import HEADLINES, Headline, headline, may_give_headline
from kd_plugins.files.configs import read_config

#: What a run keeps in its directory: the result, the validations so far, what was started.
RESULT, VALIDATIONS, STARTED = 'result.json', 'metrics.json', 'started.json'


@dataclass(frozen=True)
class Run:
    """A config to train with a seed in a directory of its own.

    Args:
        name: What to call it.
        config: Path of the config file.
        seed: Of all random numbers.
        work_dir: Where its files go.
        options: What to override in the config, as ``--cfg-options`` gives it.
    """

    name: str
    config: str
    seed: int
    work_dir: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Result:
    """What a finished run gave; accuracies in percent, time in seconds.

    A classifier's accuracy is its top-1, a detector's COCO's average precision.

    Args:
        config_hash: See :func:`~kd_plugins.experiments.identity.config_hash`.
        steps: Epochs completed before each validation, or iterations in a
            training without epochs.
        accuracy: At each of these validations.
        predictions: A classifier's in the last validation, in its set's order.
        parameters: Number of the student's parameters.
        seconds: Of all iterations and validations, interrupted parts of the
            training included; loading and saving come on top.
        metrics: Those that every validation gave, in upstream's units.
        versions: Of the packages that it was trained with.
        hardware: What it was trained on.
        memory_mib: The peak, see :class:`~kd_plugins.experiments.memory.PeakMemory`;
            of an interrupted training that of its last part, 0 if it was not measured.
        data: What the training and the validation set held, see
            :func:`~kd_plugins.experiments.data.data_hash`.
    """

    config_hash: str
    steps: list[int]
    accuracy: list[float]
    predictions: list[int]
    parameters: int
    seconds: float
    metrics: dict[str, list[float]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    hardware: str = ''
    memory_mib: int = 0
    data: dict[str, str] = field(default_factory=dict)

    @property
    def last(self) -> float:
        """Accuracy at the end of the training."""
        return self.accuracy[-1]

    @property
    def best(self) -> float:
        """The best accuracy of any validation."""
        return max(self.accuracy)

    @property
    def headline(self) -> Headline:
        """The metric that the accuracies are."""
        return headline(self.metrics) or HEADLINES[0]


@dataclass(frozen=True)
class Failure:
    """Why a run gave no result, in one line."""

    reason: str


def load_config(run: Run) -> Config:
    """Read the config of a run, with its overrides, seed and work directory.

    Raises:
        ValueError, FileNotFoundError: See :func:`kd_plugins.files.configs.read_config`.
    """
    cfg = read_config(run.config, run.options)
    cfg.work_dir = run.work_dir
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=run.seed)
    return cfg


def hash_of_all_seeds(run: Run) -> str:
    """Return the config hash of a run whichever its seed."""
    cfg = load_config(run)
    cfg.randomness.pop('seed')
    return config_hash(cfg)


def finished(run: Run, identity: str | None = None) -> Result | None:
    """Return the result of a run, if there is one for what it depends on now.

    Args:
        run: The run.
        identity: Its config hash, if it is known already.
    """
    kept = read_json(Path(run.work_dir) / RESULT)
    if not kept:
        return None
    try:
        result = Result(**kept)
    except TypeError:  # of a version that kept something else
        return None
    return result if result.config_hash == (identity or config_hash(load_config(run))) else None


def read_json(path: Path) -> dict[str, Any]:
    """Read an object; an empty one where there is none, or a broken one."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def length(cfg: Config) -> tuple[int, str]:
    """Return how long a training is, and in what: ``'epochs'`` or ``'iterations'``.

    Raises:
        ValueError: If the config trains nothing, or not for a whole number of these.
    """
    loop = cfg.get('train_cfg')
    if not loop:
        raise ValueError(
            f'{cfg.filename}: train_cfg={loop!r}, so there is nothing to train: give the config of '
            'a training.'
        )
    key, unit = ('max_epochs', 'epochs') if 'max_epochs' in loop else ('max_iters', 'iterations')
    return checks.whole_number(f'train_cfg.{key}', loop.get(key)), unit


def check_run(cfg: Config) -> None:
    """Refuse a config whose training would give no result.

    Raises:
        ValueError: If it trains nothing, is never validated, or by nothing that counts.
    """
    steps, unit = length(cfg)
    if cfg.get('val_cfg') is None:
        raise ValueError(
            f'{cfg.filename}: val_cfg=None leaves nothing to report: give val_dataloader, '
            'val_evaluator and val_cfg.'
        )
    if cfg.train_cfg.get('val_begin', 1) > steps:
        raise ValueError(
            f'{cfg.filename}: train_cfg.val_begin={cfg.train_cfg.val_begin} is after the end of '
            f'the training, which has {steps} {unit}: give one of these.'
        )
    if not may_give_headline(cfg.val_evaluator):
        raise ValueError(
            f'{cfg.filename}: val_evaluator gives neither top-1 nor the AP of COCO boxes: add '
            "dict(type='Accuracy', topk=(1,)) or dict(type='CocoMetric', metric='bbox', ...)."
        )


def steps_done(run: Run, unit: str = 'epochs') -> int:
    """Return how many epochs, or iterations, a run has completed as far as its files tell."""
    folder = Path(run.work_dir)
    validated = [int(step) for step in read_json(folder / VALIDATIONS)]
    try:
        pointer = Path((folder / 'last_checkpoint').read_text(encoding='utf-8')).stem
    except (FileNotFoundError, ValueError):
        pointer = ''
    saved = re.fullmatch('epoch_([0-9]+)' if unit == 'epochs' else 'iter_([0-9]+)', pointer)
    return max([*validated, int(saved[1]) if saved else 0])


def other_versions(result: Result) -> list[str]:
    """Say which packages are another version now than when the result was made.

    Such a result is kept, since its config and weights are the same.
    """
    now = versions()
    return [
        f'{package} {result.versions.get(package, "none")}, now {now.get(package, "none")}'
        for package in sorted({*now, *result.versions})
        if result.versions and result.versions.get(package) != now.get(package)
    ]
