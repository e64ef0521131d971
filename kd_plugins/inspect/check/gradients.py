"""What each loss does to the student, from its gradient."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_plugins.inspect.check import findings
from kd_plugins.inspect.check.report import Report


def take_gradients(
    report: Report, model: nn.Module, student: nn.Module, losses: Mapping[str, Any]
) -> None:
    """Differentiate every loss by itself, and tell which parameters none of them reaches.

    Args:
        report: Gets the values of all losses, and the norms of the gradients of
            the task and of every term with respect to the student's parameters.
        model: What trains: the student, and what the terms learn.
        student: The student.
        losses: What ``model`` returned for a batch, with its graph.
    """
    named = {k: _scalar(v) for k, v in losses.items() if 'loss' in k}
    report.losses = {k: v.item() for k, v in named.items()}
    for term in report.terms:
        term.value = report.losses.get(f'distill.{term.name}')
    trained = {k: p for k, p in model.named_parameters() if p.requires_grad}
    students = {id(p) for p in student.parameters()}
    reached: set[str] = set()
    task: dict[str, Tensor] = {}
    norms: dict[str, float] = {}
    for name, loss in named.items():
        if not loss.requires_grad:
            continue
        grads = gradients_of(loss, list(trained.values()))
        found = {k: g for k, g in zip(trained, grads, strict=True) if g is not None}
        reached.update(found)
        own = {k: g for k, g in found.items() if id(trained[k]) in students}
        norms[name] = norm_of(own.values())
        if name.startswith('student.'):
            for key, grad in own.items():
                task[key] = task[key] + grad if key in task else grad
    if task:
        report.task_gradient = norm_of(task.values())
    for term in report.terms:
        term.gradient = norms.get(f'distill.{term.name}')
    findings.examine_unused(report, sorted(set(trained) - reached))


def gradients_of(loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor | None]:
    """Return the gradients of a loss, whose graph is kept, and none is added to ``.grad``.

    Args:
        loss: One that requires a gradient.
        parameters: All that are trained, so that none keeps what ``backward()`` would add.
    """
    try:
        return [*torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)]
    except RuntimeError as error:
        if 'checkpoint' not in str(error).lower():
            raise
    # Reentrant checkpointing differentiates by backward() only.
    kept = [p.grad for p in parameters]
    try:
        for parameter in parameters:
            parameter.grad = None
        loss.backward(retain_graph=True)
        return [p.grad for p in parameters]
    finally:
        for parameter, grad in zip(parameters, kept, strict=True):
            parameter.grad = grad


def norm_of(grads: Iterable[Tensor]) -> float:
    """Return the norm of gradients taken together."""
    return sum(g.float().pow(2).sum().item() for g in grads) ** 0.5


def _scalar(value: Any) -> Tensor:
    """Reduce a loss as mmengine does."""
    return value.mean() if isinstance(value, Tensor) else sum(item.mean() for item in value)  # type: ignore[return-value]
