"""Why a distillation may not help, as far as its logs and a look at its start tell."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kd_plugins.experiments.logs import Training
from kd_plugins.experiments.metrics import Headline
from kd_plugins.inspect.check.findings import CLEARLY, DROWNS

#: Agreement with the teacher, in %, above which there is little left to rise.
AGREES = 95.0
#: By how many points it rises at least in the second half of a training that still learns.
RISES = 1.0
#: By what part of its least a loss has to grow to be called rising.
GROWS = 0.05
#: Logged values of a quarter of a training that say something.
FEW = 2


@dataclass(frozen=True)
class Reason:
    """Something that may be why a distillation does not help.

    Args:
        of: What it is about: ``'teacher'``, ``'input'``, ``'gradient'``,
            ``'agreement'``, ``'task loss'`` or ``'nothing'``.
        what: What was seen.
        change: What to try.
    """

    of: str
    what: str
    change: str


def teachers_skill(
    headline: Headline, teacher: Mapping[str, float], alone: Sequence[float]
) -> list[Reason]:
    """Compare the teacher, as it teaches, with the student alone, on the same validation set.

    Args:
        headline: The metric that counts.
        teacher: The teacher's metrics; those with ``own/`` in front are on its own
            preprocessing.
        alone: The student alone's values in percent, one a seed.
    """
    found = []
    taught = headline.value(teacher)
    prefixed = {name.removeprefix('own/'): v for name, v in teacher.items() if name[:4] == 'own/'}
    own = headline.value(prefixed)
    if taught is not None and alone and taught - statistics.fmean(alone) < CLEARLY:
        hardly = 'hardly' if taught > statistics.fmean(alone) else 'no'
        found.append(
            Reason(
                'teacher',
                f'the teacher is {hardly} better than the student alone on this validation set: '
                f'{headline.label} {taught:.2f} and {statistics.fmean(alone):.2f}.',
                'train a better teacher on this data first (tools/new_config.py --method alone).',
            )
        )
    if taught is not None and own is not None and own - taught > CLEARLY:
        found.append(
            Reason(
                'input',
                f'the teacher has {headline.label} {taught:.2f} on the input with which it teaches '
                f'and {own:.2f} on its own preprocessing, which is another input.',
                'bring the size and the padding of the data pipeline nearer to those of its '
                'training, or set model.teacher_input_size.',
            )
        )
    return found


def weights_of_terms(ratios: Mapping[str, float]) -> list[Reason]:
    """Tell terms that drown the task, or are drowned by it.

    Args:
        ratios: Of each term, the norm of its gradient over that of the task's.
    """
    return [
        Reason(
            'gradient',
            f'the gradient of {name} is {ratio:.2g} times that of the task: the '
            f'{"task" if ratio > 1 else "term"} hardly takes part.',
            f'change model.distiller.distill_losses.{name}.loss_weight; tools/check.py '
            '--calibrate proposes a start.',
        )
        for name, ratio in ratios.items()
        if ratio > DROWNS or 0 < ratio < 1 / DROWNS
    ]


def agreement_that_stops(trainings: Sequence[Training]) -> list[Reason]:
    """Tell where the student no longer comes closer to the teacher in the second half.

    Args:
        trainings: The distilled ones, one a seed.
    """
    names = {
        name
        for training in trainings
        for name in training.train
        if name.split('.')[0] in ('agreement', 'dense_agreement')
    }
    found = []
    for name in sorted(names):
        curves = [training.train[name] for training in trainings if name in training.train]
        quarters = _quarters(curves)
        if quarters is None or statistics.fmean(quarters[3]) >= AGREES:
            continue
        rise, error = _rise_of_second_half(curves)
        if rise < RISES:
            found.append(
                Reason(
                    'agreement',
                    f'agreement with the teacher ({name}) no longer rises: '
                    f'{rise:+.1f} ± {error:.1f} points over the second half, to '
                    f'{statistics.fmean(quarters[3]):.1f} %.',
                    'the student may be too small for more of this teacher, or the weight of the '
                    'distillation too small: try a smaller teacher, or a larger weight.',
                )
            )
    return found


def task_loss_that_rises(trainings: Sequence[Training]) -> list[Reason]:
    """Tell where the student's own loss grows while it is distilled.

    Args:
        trainings: The distilled ones, one a seed.
    """
    curves = [t.train['task_loss'] for t in trainings if 'task_loss' in t.train]
    quarters = _quarters(curves)
    if quarters is None:
        return []
    means = [statistics.fmean(quarter) for quarter in quarters]
    least = min(range(4), key=lambda i: means[i])
    error = math.hypot(_error(quarters[3]), _error(quarters[least]))
    if means[3] - means[least] <= max(GROWS * abs(means[least]), 2 * error):
        return []
    return [
        Reason(
            'task loss',
            f"the student's own loss rises: {means[least]:.3g} on average in quarter {least + 1} "
            f'of the training, {means[3]:.3g} in the last.',
            'the distillation works against the labels: try a smaller loss_weight of its terms, or '
            'a lower learning rate.',
        )
    ]


def the_same_student(differences: Sequence[float], predictions: Sequence[bool]) -> list[Reason]:
    """Tell where the distillation changed nothing at all.

    Args:
        differences: Of the pairs.
        predictions: Of each pair, whether both students gave the same answers.
    """
    if not any(differences) and predictions and all(predictions):
        return [
            Reason(
                'nothing',
                'distilled and alone, the student gives the same answers with every seed: the '
                'distillation changed nothing.',
                'look at the weights and the gradients of the terms with tools/check.py.',
            )
        ]
    return []


def _quarters(curves: Sequence[Mapping[int, float]]) -> list[list[float]] | None:
    """Return the values in each quarter of the trainings; None where they are too few."""
    ends = [max(curve, default=0) for curve in curves]
    quarters: list[list[float]] = [[], [], [], []]
    for curve, end in zip(curves, ends, strict=True):
        for step, value in curve.items():
            if math.isfinite(value):
                quarters[min(3, 4 * (step - 1) // end)].append(value)
    return quarters if curves and min(map(len, quarters)) >= FEW else None


def _rise_of_second_half(curves: Sequence[Mapping[int, float]]) -> tuple[float, float]:
    """Return by how much a straight line rises there, and the standard error of that."""
    points = [
        (2 * step / max(curve) - 1, value)
        for curve in curves
        for step, value in curve.items()
        if 2 * step > max(curve) and math.isfinite(value)
    ]
    x, y = np.array(points).T
    spread = ((x - x.mean()) ** 2).sum()
    slope = ((x - x.mean()) * y).sum() / spread
    rest = y - y.mean() - slope * (x - x.mean())
    error = math.sqrt((rest**2).sum() / max(len(x) - 2, 1) / spread)
    return float(slope), error


def _error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


#: Reasons that need nothing but the logs.
OF_LOGS: tuple[Callable[[Sequence[Training]], list[Reason]], ...] = (
    agreement_that_stops,
    task_loss_that_rises,
)
