"""What a look at a config tells before its trainings: its terms, its teacher."""

from __future__ import annotations

import json
import statistics
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mmengine.config import Config

from kd_plugins import launch
from kd_plugins.experiments.identity import config_hash
from kd_plugins.experiments.results import read_json
from kd_plugins.files.writing import write_aside
from kd_plugins.inspect.check import check
from kd_plugins.inspect.check.report import Calibration
from kd_plugins.inspect.quiet import quiet, silence
from kd_plugins.registry import name_of
from kd_plugins.teachers import measure_teacher, predicts

#: Where it is kept.
INSPECTED = 'inspected.json'


@dataclass
class Inspected:
    """What was seen of a config.

    Args:
        config_hash: Of the config whichever the seed.
        errors: Why it cannot train, each a sentence.
        warnings: What else ``tools/check.py`` warns of.
        ratios: Of each term, the norm of its gradient over the task's.
        unreached: The trainable parameters that no loss reaches.
        teacher: The teacher's metrics on the whole validation set, see
            :func:`~kd_plugins.teachers.measuring.measure_teacher`; none where there
            is no teacher yet, or one without a head.
    """

    config_hash: str
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    unreached: list[str] = field(default_factory=list)
    teacher: dict[str, float] = field(default_factory=dict)


def inspect_config(cfg: Config, iterations: int = 5) -> Inspected:
    """Build a config, train a few iterations, and measure its teacher, leaving nothing behind.

    Args:
        cfg: The config of a training, with or without a teacher; it is not changed.
        iterations: Over how many to measure the terms' gradients.
    """
    report = check(cfg, iterations=1, teacher_batches=0, calibration=Calibration(1.0, iterations))
    found = Inspected(config_hash(_without_seed(cfg)), unreached=report.unreached)
    found.errors, found.warnings = (
        [
            f'{finding.what} {finding.change}'.strip()
            for finding in report.findings
            if finding.level == level
        ]
        for level in ('error', 'warning')
    )
    if report.calibration:
        found.ratios = {
            name: statistics.median(ratios) for name, ratios in report.calibration.ratios.items()
        }
    if report.teacher is not None and not found.errors and cfg.get('val_dataloader'):
        found.teacher = measure_on_validation(cfg)
    return found


def kept(cfg: Config, folder: Path) -> Inspected | None:
    """Return what was seen of this very config before, if it is kept in a folder."""
    content = read_json(folder / INSPECTED)
    try:
        found = Inspected(**content)
    except TypeError:
        return None
    return found if found.config_hash == config_hash(_without_seed(cfg)) else None


def keep(found: Inspected, folder: Path) -> None:
    """Keep what was seen in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_aside(json.dumps(asdict(found), indent=2).encode(), folder / INSPECTED, shared=True)


def measure_on_validation(cfg: Config) -> dict[str, float]:
    """Return the teacher's metrics on the whole validation set, as it teaches.

    Args:
        cfg: The config of a distillation with a teacher; it is not changed.
    """
    with tempfile.TemporaryDirectory() as folder, silence():
        alike = quiet(cfg, folder)
        alike.load_from = None
        for part in ('dataloader', 'evaluator', 'cfg'):
            alike[f'test_{part}'] = alike.get(f'val_{part}')
        loop = dict(alike.test_cfg or {})
        if name_of(loop.get('type')) == 'ValLoop':
            loop['type'] = 'TestLoop'
        alike.test_cfg = loop
        # An average of the student's weights has no place in a test of the teacher.
        alike.custom_hooks = [
            hook for hook in alike.get('custom_hooks') or [] if name_of(hook['type']) != 'EMAHook'
        ]
        runner = launch.build_runner(alike)
        metrics = measure_teacher(runner) if predicts(runner.model) else {}
    return {name: float(value) for name, value in metrics.items() if value == value}


def _without_seed(cfg: Config) -> Config:
    plain = Config(cfg.to_dict(), filename=cfg.filename)
    plain.randomness = {k: v for k, v in (cfg.get('randomness') or {}).items() if k != 'seed'}
    return plain
