"""Whether a distillation term is still a number, watched on the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class TermWatch:
    """Keeps, on the device, when a term was first not finite and what it was made of.

    Args:
        name: The name it is logged under.
        loss: The module that computes it.
        runner: Tells the iteration.
        skip: Whether to take a term that is not finite out of its step.
    """

    def __init__(self, name: str, loss: nn.Module, runner: Any, skip: bool) -> None:
        self.name = name
        self.runner = runner
        self.skip = skip
        self.inputs: list[str] = []
        # On the host until the term is computed, which may be on any device.
        self.count = torch.zeros((), dtype=torch.int64)
        self.record = torch.zeros(())
        self.finite = torch.ones((), dtype=torch.bool)
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

    def describe(self) -> str:
        """Say what was recorded; waits for the device."""
        iteration, term, *ranges = self.record.tolist()
        made_of = ', '.join(
            f'{name} in [{ranges[2 * i]:.4g}, {ranges[2 * i + 1]:.4g}]'
            for i, name in enumerate(self.inputs)
        )
        return f'{self.name} became {term:.4g} at iteration {int(iteration)}' + (
            f' ({made_of})' if made_of else ''
        )

    def _gated(self, gradient: Tensor) -> Tensor:
        return torch.where(self.finite.to(gradient.device), gradient, torch.zeros_like(gradient))

    def _before(self, loss: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return (
            tuple(self._gate(value) for value in args),
            {name: self._gate(value) for name, value in kwargs.items()},
        )

    def _gate(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.requires_grad:
            value = value.view_as(value)
            # Zeroing the loss is not enough: 0 times an infinite derivative is NaN.
            value.register_hook(self._gated)
        return value

    def _after(self, loss: nn.Module, args: tuple, kwargs: dict, term: Any) -> Any:
        if not isinstance(term, Tensor):
            return None
        value = term.detach()
        finite = torch.isfinite(value).all()
        inputs = {
            name: x.detach()
            for name, x in [*((f'input {i}', x) for i, x in enumerate(args)), *kwargs.items()]
            if isinstance(x, Tensor) and x.is_floating_point() and x.numel()
        }
        self.inputs = list(inputs)
        ranges = [edge for x in inputs.values() for edge in torch.aminmax(x)]
        # Filled on the device: a copy from the host would wait for it. In float32, which
        # every device has.
        iteration = value.new_full((), self.runner.iter + 1, dtype=torch.float32)
        new = torch.stack([iteration, *(x.float() for x in (value.mean(), *ranges))])
        if self.record.shape != new.shape or self.record.device != new.device:
            self.record = torch.zeros_like(new)
            self.count = self.count.to(value.device)
        self.record = torch.where(~finite & (self.count == 0), new, self.record)
        self.count = self.count + ~finite
        self.finite = finite
        return torch.where(finite, term, torch.zeros_like(term)) if self.skip else None
