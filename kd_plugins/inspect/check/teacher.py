"""Measuring the teacher, in the place of the student, on the validation set."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from mmengine.runner import Runner
from torch import nn

from kd_plugins.files.weights import load_weights
from kd_plugins.inspect.check.report import Report
from kd_plugins.inspect.check.unlabelled import ask_teacher, found_boxes, sureness
from kd_plugins.networks import build_student_network
from kd_plugins.teachers import AsTaught, teacher_of


def evaluate_teacher(
    report: Report,
    runner: Runner,
    batches: int,
    alone: str | None = None,
    tell: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> None:
    """Run the validation's metrics on the teacher, over some batches.

    How sure it is of the training's pictures without labels is compared with that.
    It is measured on the input with which it teaches and, where its own
    preprocessing would make another input of these batches, on that one, too; and
    the teachers that it is made of, each alone.

    Args:
        report: Gets the metrics, and on how many samples.
        runner: The training's; its model is a distillation with a teacher, and
            there is a validation.
        batches: How many batches.
        alone: The checkpoint of a student that was trained alone, to be measured on the
            same batches.
        tell: Called with how many batches are done, of how many, and of what.

    Raises:
        FileNotFoundError, ValueError: If that is no checkpoint of this student.
    """
    loop, taught = runner.val_loop, teacher_of(runner.model)
    drawn = [*itertools.islice(loop.dataloader, batches)]
    report.teacher_metrics, seen = _measure(loop, taught, drawn, tell)
    report.teacher_samples = len(seen)
    boxes: Any = getattr(runner.model, 'pseudo_boxes', None)
    labelled = sureness(seen)
    if labelled is not None:
        report.unlabelled = sureness(ask_teacher(runner, taught, batches))
        report.labelled = labelled if report.unlabelled is not None else None
    elif boxes is not None:
        outputs = ask_teacher(runner, taught, batches)
        report.unlabelled_boxes = found_boxes(outputs, boxes.score)
        report.labelled_boxes = found_boxes(seen, boxes.score)
    for member in taught.teacher.members:
        metrics, _ = _measure(loop, AsTaught(member), drawn, tell)
        report.teacher_members.append((str(member.weights), metrics))
    network = taught.teacher.network
    if network is not None and taught.own_input_differed:
        report.teacher_own_metrics, _ = _measure(loop, network, drawn, tell)
    if alone is not None:
        student = _student_of(runner)
        load_weights(student, alone, '--alone', 'student alone')
        report.alone_metrics, _ = _measure(loop, student.eval(), drawn, tell)


def _student_of(runner: Runner) -> nn.Module:
    """Return a network like the training's student, outside of any distillation."""
    model = runner.cfg.get('model') or {}
    architecture = model.get('architecture')
    if not isinstance(architecture, Mapping):
        return copy.deepcopy(getattr(runner.model, 'architecture', runner.model))
    top = model.get('data_preprocessor') or runner.cfg.get('data_preprocessor')
    device = next(runner.model.parameters()).device
    return build_student_network(architecture, top).to(device)


def _measure(
    loop: Any, network: nn.Module, batches: Sequence[Any], tell: Callable[[int, int, str], None]
) -> tuple[dict[str, float], list[Any]]:
    """Return the metrics of a network over batches, and its predictions."""
    seen: list[Any] = []
    for done, batch in enumerate(batches):
        tell(done, len(batches), 'batches of the validation')
        # Preprocessors write into the samples.
        batch = copy.deepcopy(batch)
        with torch.no_grad():
            outputs = network.val_step(batch)
        loop.evaluator.process(data_samples=outputs, data_batch=batch)
        seen.extend(outputs)
    detection = [
        metric
        for metric in loop.evaluator.metrics
        if hasattr(metric, 'img_ids') and hasattr(seen[0], 'img_id')
    ]
    for metric in detection:
        # CocoMetric counts what it was not shown as missed.
        metric.img_ids = [sample.img_id for sample in seen]
    metrics = loop.evaluator.evaluate(len(seen))
    for metric in detection:
        name = f'{metric.prefix}/bbox_mAP'
        if 'bbox' in getattr(metric, 'metrics', ()) and name not in metrics:
            # CocoMetric gives nothing where nothing was detected.
            objects = metric._coco_api.get_ann_ids(img_ids=metric.img_ids, cat_ids=metric.cat_ids)
            metrics[name] = 0.0 if objects else -1.0
    return {key: float(value) for key, value in metrics.items() if value == value}, seen
