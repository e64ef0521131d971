"""Whether a distillation term still says something, watched on the device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kd_plugins.structures import HeadOutputs

#: By how much rounding may take a term below its lower bound, before its weight.
ROUNDING = 1e-3
#: How often its largest value so far a term may become, and how often the task's
#: loss, in a step in which the task's loss does not grow as well.
OUTGROWN, DROWNED = 100.0, 10.0


class TermWatch:
    """Keeps, on the device, when a term first went wrong and what it was made of.

    It is wrong where it is not finite or below its ``lower_bound``, and where it
    outgrows the task: :meth:`beside` the task's loss.

    Args:
        name: The name it is logged under.
        loss: The module that computes it.
        runner: Tells the iteration.
        skip: Whether to take a term that is not finite, or below its bound, out
            of its step.
    """

    def __init__(self, name: str, loss: nn.Module, runner: Any, skip: bool) -> None:
        self.name = name
        self.runner = runner
        self.skip = skip
        self.inputs: list[str] = []
        bound = getattr(loss, 'lower_bound', None)
        weight = getattr(loss, 'loss_weight', 1.0)
        self.least = -math.inf
        if bound is not None:
            self.least = weight * bound - ROUNDING * max(weight, 1.0)
        # The largest of the term and of the task's loss: until the last reset, and since.
        self.before: Tensor | None = None
        self.since: Tensor | None = None
        self.latest: Tensor | None = None
        # On the host until the term is computed, which may be on any device.
        self.count = torch.zeros((), dtype=torch.int64)
        self.record = torch.zeros(())
        # In all calls of the latest step: labelled and unlabelled pictures are one each.
        self.sound = torch.ones((), dtype=torch.bool)
        self.step = -1
        self.handles: list[Any] = [loss.register_forward_hook(self._after, with_kwargs=True)]
        if skip:
            self.handles.append(loss.register_forward_pre_hook(self._before, with_kwargs=True))
            self.handles += [
                parameter.register_hook(self._gated)
                for parameter in loss.parameters()
                if parameter.requires_grad
            ]

    def remove(self) -> None:
        """Leave the loss alone."""
        for handle in self.handles:
            handle.remove()

    def reset(self) -> None:
        """Forget what was recorded, on the device where it is."""
        self.count = torch.zeros_like(self.count)
        self.record = torch.zeros_like(self.record)

    def next_window(self) -> None:
        """Compare later values with all values until now."""
        if self.since is not None:
            self.before = self.since if self.before is None else self.before.maximum(self.since)
        self.since = None

    def beside(self, term: Tensor, task: Tensor) -> None:
        """See whether the term outgrew the task in this step.

        It did where it is more than 100 times its largest value until the last
        window and more than 10 times the task's loss, while the task's loss did not
        grow as much. Without a wait for the device.

        Args:
            term: The term as it is logged, a scalar.
            task: The student's own losses, summed, a scalar.
        """
        values = torch.stack([term.detach().float(), task.detach().float().to(term.device)])
        # What is no number is reported as such, and is no measure of later values.
        finite = torch.where(torch.isfinite(values), values, 0)
        self.since = finite if self.since is None else self.since.maximum(finite)
        if self.before is None or self.latest is None:
            return
        # Of what is not finite the step has told already.
        largest, grown = self.before[0], finite / self.before
        wrong = (largest > 0) & (finite[0] > DROWNED * values[1])
        wrong &= grown[0] > OUTGROWN * grown[1].clamp(min=1)
        self._keep(self.latest, wrong)

    def _keep(self, new: Tensor, wrong: Tensor) -> None:
        self.record = torch.where(wrong & (self.count == 0), new, self.record)
        self.count = self.count + wrong

    @property
    def outgrew(self) -> bool:
        """Whether what was recorded is no wrong value, but outgrew the task; waits."""
        term = float(self.record[1])
        return math.isfinite(term) and term >= self.least

    def describe(self) -> str:
        """Say what was recorded; waits for the device."""
        iteration, term, *ranges = self.record.tolist()
        made_of = ', '.join(
            f'{name} in [{ranges[2 * i]:.4g}, {ranges[2 * i + 1]:.4g}]'
            for i, name in enumerate(self.inputs)
        )
        said = f'{self.name} became {term:.4g} at iteration {int(iteration)}'
        if self.outgrew:
            said += f', more than {OUTGROWN:.0f} times its largest value before and far above the '
            said += "task's loss, which did not grow with it"
        elif math.isfinite(term):
            said += f', below {self.least:.4g}, the least value it can have'
        return said + (f' ({made_of})' if made_of else '')

    def _gated(self, gradient: Tensor) -> Tensor:
        return torch.where(self.sound.to(gradient.device), gradient, torch.zeros_like(gradient))

    def _before(self, loss: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return (
            tuple(self._gate(value) for value in args),
            {name: self._gate(value) for name, value in kwargs.items()},
        )

    def _gate(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            if value.requires_grad:
                value = value.view_as(value)
                # Zeroing the loss is not enough: 0 times an infinite derivative is NaN.
                value.register_hook(self._gated)
            return value
        if type(value) in (tuple, list):
            gated = [self._gate(each) for each in value]
            same = all(a is b for a, b in zip(gated, value, strict=True))
            return value if same else type(value)(gated)
        if isinstance(value, Mapping):
            return {key: self._gate(each) for key, each in value.items()}
        if _is_record(value):
            parts = {name: self._gate(part) for name, part in _parts(value)}
            if isinstance(value, HeadOutputs):
                # Decoded once, whichever terms ask.
                parts['decode'] = lambda: self._gate(value.boxes)
            same = all(part is getattr(value, name) for name, part in parts.items())
            return value if same else replace(value, **parts)
        return value

    def _after(self, loss: nn.Module, args: tuple, kwargs: dict, term: Any) -> Any:
        if not isinstance(term, Tensor):
            return None
        value = term.detach()
        sound = (torch.isfinite(value) & (value >= self.least)).all()
        named = [*((f'input {i}', x) for i, x in enumerate(args)), *kwargs.items()]
        # Not of every call, and what they are is no news.
        named = [(name, x) for name, x in named if name != 'gt_labels']
        inputs = dict(each for name, x in named for each in _tensors(name, x))
        self.inputs = list(inputs)
        # Of nothing as of a zero: a record has the same numbers in every step.
        ranges = [
            edge
            for x in inputs.values()
            for edge in torch.aminmax(x if x.numel() else x.new_zeros(1))
        ]
        # Filled on the device: a copy from the host would wait for it. In float32, which
        # every device has.
        iteration = value.new_full((), self.runner.iter + 1, dtype=torch.float32)
        new = torch.stack([iteration, *(x.float() for x in (value.mean(), *ranges))])
        if self.record.shape != new.shape or self.record.device != new.device:
            self.record = torch.zeros_like(new)
            self.count = self.count.to(value.device)
        self._keep(new, ~sound)
        again = self.runner.iter == self.step
        self.latest, self.step = new, self.runner.iter
        self.sound = self.sound & sound if again else sound
        return torch.where(sound, term, torch.zeros_like(term)) if self.skip else None


def _is_record(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def _parts(record: Any) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a record that a constructor takes."""
    yield from ((f.name, getattr(record, f.name)) for f in fields(record) if f.init)


def _tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of real numbers in what a term takes, each with its name there."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield name, value.detach()
    elif isinstance(value, (tuple, list)):
        for i, each in enumerate(value):
            yield from _tensors(f'{name}[{i}]', each)
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _tensors(f'{name}[{key!r}]', each)
    elif _is_record(value):
        for part, each in _parts(value):
            yield from _tensors(f'{name}.{part}', each)
