"""DOT: SGD with one momentum for the task and another for the distillation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from kd_plugins import checks
from kd_plugins.registry import OPTIMIZERS

#: What SGD can do and DOT cannot: it would change the published update.
_UNSUPPORTED = ('nesterov', 'maximize', 'differentiable')


#: Names in the optimizer's state; the first is SGD's own.
TASK_BUFFER = 'momentum_buffer'
DISTILL_BUFFER = 'distill_momentum_buffer'

#: The group more that a state has; see :meth:`DOTSGD.state_dict`.
_MARK = dict(params=[], written_by='kd_plugins.DOTSGD')


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
        #: The distillation's gradients, of the parameters that it reaches.
        self.distill_grads: dict[Tensor, Tensor] = {}
        self._taken_apart = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over what a copy or a file has; gradients are in neither, as in torch."""
        super().__setstate__(state)
        self.__dict__.setdefault('distill_grads', {})
        self.__dict__.setdefault('_taken_apart', False)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as in SGD.

        Raises:
            ValueError: As when the optimizer is made; or if a parameter is in
                the groups twice, or two parameters share memory.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        checks.number('optim_wrapper.optimizer.momentum', group['momentum'])
        checks.number('optim_wrapper.delta', group['delta'])
        _check_momenta(group['momentum'], group['delta'])
        for key in _UNSUPPORTED:
            if group.pop(key, False):
                raise ValueError(
                    f'optim_wrapper.optimizer.{key}=True is not supported by DOT, whose '
                    f'published update has none: set {key}=False.'
                )
        _check_distinct(self.params)

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
        # makes a group of each, and kernel calls for each would be slow. The name of the
        # buffer keeps a parameter from standing twice in a list: such a call on a GPU
        # may lose one of the two changes.
        updates: dict[tuple[str, bool, float, float, float, float], _Update] = defaultdict(_Update)
        for group in self.param_groups:
            lr, dampening = group['lr'], group['dampening']
            for p, grad, name, momentum, decay in self._reached(group):
                state = self.state[p]
                first = name not in state
                if first:
                    state[name] = grad.detach().clone()
                update = updates[name, first, lr, momentum, dampening, decay]
                update.params.append(p)
                update.grads.append(grad)
                update.buffers.append(state[name])
        for (_, first, _, momentum, dampening, decay), update in updates.items():
            # As in SGD, where momentum 0 means no dampening either.
            share = 1.0 if first or not momentum else 1 - dampening
            if not first:
                torch._foreach_mul_(update.buffers, momentum)
                torch._foreach_add_(update.buffers, update.grads, alpha=share)
            if decay:
                torch._foreach_add_(update.buffers, update.params, alpha=share * decay)
        return [(key[2], update.params, update.buffers) for key, update in updates.items()]

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

    def state_dict(self) -> dict[str, Any]:
        """Return the state, in a form that no other optimizer loads.

        It has one empty group more than the optimizer. torch's optimizers refuse
        another number of groups; otherwise SGD would take the task's buffers for
        its own and forget the distillation's.
        """
        state = super().state_dict()
        return {**state, 'param_groups': [*state['param_groups'], dict(_MARK)]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state; settings come from it too, as with every optimizer.

        Raises:
            ValueError: If the state is another optimizer's.
        """
        check_state(state_dict, dot=True)
        groups = [group for group in state_dict['param_groups'] if not _is_mark(group)]
        super().load_state_dict({**state_dict, 'param_groups': groups})


def check_state(state_dict: Mapping[str, Any], dot: bool) -> None:
    """Refuse to go on with a training with DOT by one without it, or the other way.

    Args:
        state_dict: The state of an optimizer.
        dot: Whether the training that goes on is one with DOT.

    Raises:
        ValueError: If the state is that of the other kind.
    """
    groups, states = state_dict.get('param_groups', []), state_dict.get('state', {})
    by_dot = any(map(_is_mark, groups)) or any(DISTILL_BUFFER in s for s in states.values())
    weights = 'start from its weights with load_from=<checkpoint> and resume=False'
    if dot and not by_dot:
        raise ValueError(
            'resume=True: the optimizer of this checkpoint has no momentum of the distillation, so '
            f'the training that wrote it was without DOT: {weights}.'
        )
    if by_dot and not dot:
        raise ValueError(
            'resume=True: this checkpoint was written with DOT, and without it one of its two '
            "momenta would be lost: set optim_wrapper.type='kd_plugins.DOTOptimWrapper', or "
            f'{weights}.'
        )


def _is_mark(group: Mapping[str, Any]) -> bool:
    return 'written_by' in group and not group['params']


def _check_distinct(params: list[Tensor]) -> None:
    """Refuse memory that two parameters share: both would be updated at once."""
    seen: set[tuple[torch.device, int]] = set()
    for p in params:
        # Without memory, as on the device "meta", there is nothing to share.
        place = (p.device, p.data_ptr())
        if place[1] and place in seen:
            raise ValueError(
                f'DOTSGD got a parameter of shape {tuple(p.shape)} twice, or two parameters that '
                'share memory: give each once (tied layers share one nn.Parameter, and '
                'model.parameters() lists it once).'
            )
        seen.add(place)


def _check_momenta(mu: float, delta: float) -> None:
    if not (0 <= mu - delta < 1 and 0 <= mu + delta < 1):
        raise ValueError(
            f'optim_wrapper.delta={delta!r} beside optim_wrapper.optimizer.momentum={mu!r} makes '
            f'the momentum of the task {mu - delta:.4g} and of the distillation {mu + delta:.4g}, '
            'and both must be at least 0 and below 1: the paper has momentum 0.9 and delta 0.075 '
            'or 0.09.'
        )
