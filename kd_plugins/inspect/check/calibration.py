"""Weights of the terms for a wanted ratio of their gradients to the task's."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from kd_plugins.checks import is_number
from kd_plugins.inspect.check.gradients import gradients_of, norm_of
from kd_plugins.inspect.check.report import Calibration, Report
from kd_plugins.new_config.python import statement

#: Digits of a proposed weight: the ratio it is made of varies by more.
_DIGITS = 2


def measure(
    calibration: Calibration,
    model: nn.Module,
    student: nn.Module,
    losses: Mapping[str, Any],
) -> None:
    """Add the ratios of one batch: of each term's gradient to the task's.

    Norms are of the gradients with respect to the student's parameters. A term in its
    warm-up counts as if that were over.

    Args:
        calibration: Gets the ratios.
        model: The distillation.
        student: The student.
        losses: What ``model`` returned for a batch, with its graph.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    students = {id(p) for p in student.parameters()}

    def norm(loss: Tensor) -> float:
        grads = gradients_of(loss, trained) if loss.requires_grad else []
        pairs = zip(trained, grads, strict=False)
        return norm_of(grad for p, grad in pairs if grad is not None and id(p) in students)

    named = {name: _total(value) for name, value in losses.items() if 'loss' in name}
    task = [value for name, value in named.items() if name.startswith('student.')]
    own = norm(sum(task)) if task else 0.0  # type: ignore[arg-type]
    if not own:
        return
    for name, module in model.distiller.distill_losses.items():  # type: ignore[union-attr]
        loss = named.get(f'distill.{name}')
        if loss is None:
            continue
        ratio = norm(loss) / own / _strength(module)
        calibration.ratios.setdefault(name, []).append(ratio)


def propose(report: Report, model: nn.Module) -> None:
    """Add the weights for the wanted ratio, and the line of a config that sets them.

    Args:
        report: Its calibration has the ratios.
        model: The distillation.
    """
    calibration = report.calibration
    assert calibration is not None
    settings: dict[str, Any] = {}
    for name, ratios in calibration.ratios.items():
        found = _weight_of(model.distiller.distill_losses[name])  # type: ignore[union-attr, index]
        ratio = statistics.median(ratios)
        if found is None or not found[1] or not ratio:
            report.add(
                'note',
                f'no weight is proposed for {name}: '
                + (
                    'it has no loss_weight.'
                    if found is None
                    else 'its weight is 0, so its gradient tells nothing.'
                    if not found[1]
                    else 'its gradient was 0.'
                ),
            )
            continue
        keys, weight = found
        proposed = float(f'{weight * calibration.wanted / ratio:.{_DIGITS}g}')
        calibration.weights[name] = weight
        calibration.proposed[name] = proposed
        setting: Any = proposed
        for key in reversed(keys):
            setting = {key: setting}
        settings[name] = setting
    if settings:
        calibration.line = statement('model', dict(distiller=dict(distill_losses=settings))).strip()
    elif not calibration.ratios:
        report.add(
            'note',
            "no weights are proposed: there is no gradient of the student's own loss beside a "
            'distillation term to compare with.',
        )


def _total(value: Any) -> Tensor:
    return value.mean() if isinstance(value, Tensor) else sum(item.mean() for item in value)  # type: ignore[return-value]


def _strength(module: nn.Module) -> float:
    """Return how much of its weight a term has at this moment."""
    strength = 1.0
    for part in module.modules():
        warmup, progress = getattr(part, 'warmup', None), getattr(part, 'progress', None)
        if callable(warmup) and progress is not None:
            strength *= float(warmup(progress))
    return strength or 1.0


def _weight_of(module: nn.Module) -> tuple[list[str], float] | None:
    """Return where a term's weight is in its config, and the weight; None if it has none."""
    for keys, part in ([], module), (['loss'], getattr(module, 'loss', None)):
        weight = getattr(part, 'loss_weight', None)
        if is_number(weight):
            return [*keys, 'loss_weight'], float(weight)  # type: ignore[arg-type]
    return None
