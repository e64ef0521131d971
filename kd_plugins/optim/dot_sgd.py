"""DOT: SGD with one momentum for the task and another for the distillation."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from kd_plugins.registry import OPTIMIZERS

#: What SGD can do and DOT cannot: it would change the published update.
_UNSUPPORTED = ('nesterov', 'maximize', 'differentiable')


#: Names in the optimizer's state; the first is SGD's own.
TASK_BUFFER = 'momentum_buffer'
DISTILL_BUFFER = 'distill_momentum_buffer'


@dataclass
class _Update:
    """Parameters that share ``v = momentum v + (1 - dampening) g + decay p``."""

    params: list[Tensor] = field(default_factory=list)
    grads: list[Tensor] = field(default_factory=list)
    buffers: list[Tensor] = field(default_factory=list)


@OPTIMIZERS.register_module()
class DOTSGD(Optimizer):
    r"""SGD that keeps the momenta of two losses apart.

    With mu the momentum, and both gradients taken at the same weights,

    * ``v_task    = (mu - delta) v_task    + g_task + weight_decay * p``
    * ``v_distill = (mu + delta) v_distill + g_distill``
    * ``p = p - lr (v_task + v_distill)``

    Buffers start as their first gradient; dampening, ``(1 - dampening) g``,
    applies from the second on. A parameter that only one of the losses reaches
    in a step uses mu for that buffer, and a buffer whose loss does not reach
    it stays as it is and is not applied. Weight decay goes with the task; for a
    parameter without a task gradient it goes with the distillation, but not in
    that buffer's first step. Not reached means a gradient of None, not of zeros.

    Where both gradients exist in every step, delta 0 is SGD on the sum.

    The task's gradients are the parameters' ``.grad``, the distillation's are
    :attr:`distill_grads`. ``kd_plugins.DOTOptimWrapper`` computes both in any
    training that a Runner drives; in a loop of your own::

        optimizer = DOTSGD(model.parameters(), lr=0.05, momentum=0.9, delta=0.075)
        with optimizer.distillation():
            loss_kd.backward(retain_graph=True)
        loss_task.backward()
        optimizer.step()
        optimizer.zero_grad()

    Args:
        params: Parameters, or groups of them; every setting below can differ
            from group to group and change between steps.
        lr: Learning rate; it multiplies the buffers when they are applied.
        momentum: mu, in [0, 1).
        delta: Half the distance of the two momenta; both must be in [0, 1).
            The paper: 0.075 on CIFAR-100 and Tiny-ImageNet, 0.09 on ImageNet.
        dampening: As in SGD.
        weight_decay: As in SGD.

    Raises:
        ValueError: If delta takes a momentum out of [0, 1), or a group asks
            for Nesterov momentum.

    Source: Zhao, Cui, Song, Qiu, Liang, "DOT: A Distillation-Oriented Trainer",
    ICCV 2023, arXiv 2307.08436, section 4; branches as in
    megvii-research/mdistiller at a08d46f10d6102bd6e3f258ca5ac880b020ea259.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float,
        momentum: float,
        delta: float,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = dict(
            lr=lr, momentum=momentum, delta=delta, dampening=dampening, weight_decay=weight_decay
        )
        super().__init__(params, defaults)  # type: ignore[arg-type]
        for group in self.param_groups:
            _check_number('optimizer.momentum', group['momentum'])
            _check_number('delta', group['delta'])
            _check_momenta(group['momentum'], group['delta'])
            for key in _UNSUPPORTED:
                if group.pop(key, False):
                    raise ValueError(
                        f'optim_wrapper.optimizer.{key}=True is not supported by DOT, whose '
                        f'published update has none: set {key}=False.'
                    )
        #: The distillation's gradients, of the parameters that it reaches.
        self.distill_grads: dict[Tensor, Tensor] = {}
        self._taken_apart = False

    @classmethod
    def from_sgd(cls, sgd: SGD, delta: float) -> DOTSGD:
        """Take over the groups and settings of an SGD that has not stepped yet."""
        own = ('lr', 'momentum', 'dampening', 'weight_decay')
        groups = [dict(group) for group in sgd.param_groups]
        return cls(groups, delta=delta, **{key: sgd.defaults[key] for key in own})

    @property
    def params(self) -> list[Tensor]:
        """All parameters, group by group."""
        return [p for group in self.param_groups for p in group['params']]

    @contextmanager
    def distillation(self) -> Iterator[None]:
        """Within it, ``.grad`` of every parameter is the distillation's gradient.

        So a backward pass adds to the distillation's gradients here, and to the
        task's outside.
        """
        self._swap()
        try:
            yield
        finally:
            self._swap()
            self._taken_apart = True

    def _swap(self) -> None:
        away = self.distill_grads
        for p in self.params:
            here = p.grad
            p.grad = away.pop(p, None)
            if here is not None:
                away[p] = here

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update both buffers, then the parameters.

        Raises:
            RuntimeError: If the losses were not taken apart since the last step.
            ValueError: If a scheduler has taken a momentum out of [0, 1).
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self._taken_apart:
            raise RuntimeError(
                'DOTSGD.step() was called without a backward pass of the distillation loss inside '
                "optimizer.distillation(): train with optim_wrapper.type='kd_plugins."
                "DOTOptimWrapper', which does it, or see DOTSGD for a loop of your own."
            )
        self._taken_apart = False
        updates = self._update_buffers()
        # Only now: weight decay and both gradients are of the same weights.
        for lr, params, buffers in updates:
            torch._foreach_add_(params, buffers, alpha=-lr)
        return loss

    def _update_buffers(self) -> list[tuple[float, list[Tensor], list[Tensor]]]:
        """Update the buffers that a gradient reaches; return what to apply."""
        # Parameters with the same settings are updated together: paramwise_cfg
        # makes a group of each, and kernel calls for each would be slow.
        updates: dict[tuple[bool, float, float, float, float], _Update] = defaultdict(_Update)
        for group in self.param_groups:
            lr, dampening = group['lr'], group['dampening']
            for p, grad, name, momentum, decay in self._reached(group):
                state = self.state[p]
                first = name not in state
                if first:
                    state[name] = grad.detach().clone()
                update = updates[first, lr, momentum, dampening, decay]
                update.params.append(p)
                update.grads.append(grad)
                update.buffers.append(state[name])
        for (first, _, momentum, dampening, decay), update in updates.items():
            # As in SGD, where momentum 0 means no dampening either.
            share = 1.0 if first or not momentum else 1 - dampening
            if not first:
                torch._foreach_mul_(update.buffers, momentum)
                torch._foreach_add_(update.buffers, update.grads, alpha=share)
            if decay:
                torch._foreach_add_(update.buffers, update.params, alpha=share * decay)
        return [(key[1], update.params, update.buffers) for key, update in updates.items()]

    def _reached(self, group: dict[str, Any]) -> Iterator[tuple[Tensor, Tensor, str, float, float]]:
        """Yield parameter, gradient, name of the buffer, momentum, weight decay."""
        mu, delta, decay = group['momentum'], group['delta'], group['weight_decay']
        _check_momenta(mu, delta)
        for p in group['params']:
            task, distill = p.grad, self.distill_grads.get(p)
            if task is not None:
                yield p, task, TASK_BUFFER, mu if distill is None else mu - delta, decay
            if distill is None:
                continue
            if task is not None:
                yield p, distill, DISTILL_BUFFER, mu + delta, 0.0
            else:
                begun = DISTILL_BUFFER in self.state[p]
                yield p, distill, DISTILL_BUFFER, mu, decay if begun else 0.0

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget both sets of gradients.

        Raises:
            ValueError: For ``set_to_none=False``: a gradient of zeros would
                look like one of a loss that reaches the parameter.
        """
        if not set_to_none:
            raise ValueError(
                'zero_grad(set_to_none=False) would let DOT take a parameter that no loss reaches '
                'for one with a gradient of 0: leave set_to_none at True.'
            )
        self.distill_grads.clear()
        super().zero_grad(set_to_none=True)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state; settings come from it too, as with every optimizer.

        Raises:
            ValueError: If the state is another optimizer's.
        """
        if any('delta' not in group for group in state_dict['param_groups']):
            raise ValueError(
                'resume=True: the optimizer of this checkpoint has no delta, so the training that '
                'wrote it was without DOT and its momentum cannot be taken apart: start from its '
                'weights with load_from=<checkpoint> and resume=False.'
            )
        super().load_state_dict(state_dict)


def _check_number(key: str, value: float) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise ValueError(f'optim_wrapper.{key}={value!r} is not a finite number.')


def _check_momenta(mu: float, delta: float) -> None:
    if not (0 <= mu - delta < 1 and 0 <= mu + delta < 1):
        raise ValueError(
            f'optim_wrapper.delta={delta!r} beside optim_wrapper.optimizer.momentum={mu!r} makes '
            f'the momentum of the task {mu - delta:.4g} and of the distillation {mu + delta:.4g}, '
            'and both must be at least 0 and below 1: the paper has momentum 0.9 and delta 0.075 '
            'or 0.09.'
        )
