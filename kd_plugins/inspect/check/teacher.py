"""Measuring the teacher, in the place of the student, on the validation set."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.runner import Runner

from kd_plugins.inspect.check.report import Report
from kd_plugins.teachers import teacher_of


def evaluate_teacher(report: Report, runner: Runner, batches: int) -> None:
    """Run the validation's metrics on the teacher, over its first batches.

    Args:
        report: Gets the metrics, and on how many samples.
        runner: The training's; its model is a distillation.
        batches: How many batches.
    """
    if runner._val_loop is None:
        report.add(
            'warning',
            'there is no validation: neither the teacher nor the student will be measured.',
            'give val_dataloader, val_evaluator and val_cfg.',
        )
        return
    teacher = teacher_of(runner.model)
    loop = runner.val_loop
    seen: list[Any] = []
    for number, batch in enumerate(loop.dataloader):
        if number == batches:
            break
        with torch.no_grad():
            outputs = teacher.val_step(batch)
        loop.evaluator.process(data_samples=outputs, data_batch=batch)
        seen.extend(outputs)
    for metric in loop.evaluator.metrics:
        if hasattr(metric, 'img_ids') and hasattr(seen[0], 'img_id'):
            # CocoMetric counts what it was not shown as missed.
            metric.img_ids = [sample.img_id for sample in seen]
    metrics = loop.evaluator.evaluate(len(seen))
    report.teacher_metrics = {key: float(value) for key, value in metrics.items() if value == value}
    report.teacher_samples = len(seen)
