"""What is done to both gradient sets of :class:`DOTSGD` before its step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from mmengine.dist import all_reduce, all_reduce_params, get_world_size
from torch import Tensor

from kd_plugins.optim.dot_sgd import DOTSGD

#: DistributedDataParallel's own; bounds the copy that a reduction takes.
BUCKET_MB = 25


class BothGradients:
    """Shows a loss scaler the two sets as the gradients of one optimizer.

    The scaler unscales what it finds in ``param_groups``, and calls ``step``
    unless something there is not finite.
    """

    def __init__(self, optimizer: DOTSGD) -> None:
        self.optimizer = optimizer
        self.stepped = False

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """One group: the parameters, and stand-ins with the other gradients."""
        stand_ins = [_stand_in(grad) for grad in self.optimizer.distill_grads.values()]
        return [dict(params=[*self.optimizer.params, *stand_ins])]

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Step, and remember it."""
        self.stepped = True
        return self.optimizer.step(*args, **kwargs)


@torch.no_grad()
def average_over_ranks(optimizer: DOTSGD, group: Any = None) -> None:
    """Replace both sets by their means over the ranks.

    A parameter that a loss reaches on any rank has that gradient on every one
    afterwards; where it was not reached it counts as zeros, as in
    ``DistributedDataParallel``.
    """
    if get_world_size(group) == 1:
        return
    params = [p for p in optimizer.params if p.requires_grad]
    away = optimizer.distill_grads
    here = [[p.grad is not None for p in params], [p in away for p in params]]
    reached = torch.tensor(here, dtype=torch.uint8, device=params[0].device)
    all_reduce(reached, op='max', group=group)
    by_task, by_distillation = reached.tolist()
    for p, task, distill in zip(params, by_task, by_distillation, strict=True):
        if task and p.grad is None:
            p.grad = torch.zeros_like(p)
        if distill and p not in away:
            away[p] = torch.zeros_like(p)
    grads = [p.grad for p in params if p.grad is not None]
    grads += [away[p] for p in params if p in away]
    all_reduce_params(grads, bucket_size_mb=BUCKET_MB, op='mean', group=group)


@torch.no_grad()
def clip(optimizer: DOTSGD, clip_func: Callable[..., Any], settings: dict[str, Any]) -> Any:
    """Clip what is applied, the sum of both gradients; return what clipping returned.

    Both gradients are multiplied by the same factor: that of the whole model
    for ``clip_grad_norm_``, that of each element for ``clip_grad_value_``. So
    delta 0 stays SGD on the sum.
    """
    away = optimizer.distill_grads
    # In the order of the parameters, since sums in another would round differently
    # on every rank.
    alone = [
        _stand_in(away[p] if p.grad is None else p.grad)
        for p in optimizer.params
        if (p.grad is None) is (p in away)
    ]
    task, distill = shared_gradients(optimizer)
    sums = list(torch._foreach_add(task, distill)) if task else []
    if 'max_norm' in settings:
        norm = clip_func([*alone, *(_stand_in(s) for s in sums)], **settings)
        if task:
            factor = (settings['max_norm'] / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_([*task, *distill], factor)
        return norm
    bound = float(settings['clip_value'])
    for total, *pair in zip(sums, task, distill, strict=True):
        factor = (bound / total.abs()).clamp(max=1.0)
        for grad in pair:
            grad.mul_(factor)
    return clip_func(alone, **settings) if alone else None


@torch.no_grad()
def cosine(optimizer: DOTSGD) -> Tensor | None:
    """Return the cosine of both gradients over the parameters that have both.

    A scalar in [-1, 1], 0 where a gradient is 0; None without such parameters.
    """
    task, distill = shared_gradients(optimizer)
    if not task:
        return None
    pairs = [(a.float().flatten(), b.float().flatten()) for a, b in zip(task, distill, strict=True)]
    # Where a model lies on several devices, the sums meet on the first.
    products = [torch.stack((a @ b, a @ a, b @ b)).to(task[0].device) for a, b in pairs]
    dot, task_square, distill_square = torch.stack(products).sum(dim=0)
    norms = task_square.sqrt() * distill_square.sqrt()
    return dot / norms.clamp(min=torch.finfo(norms.dtype).tiny)


def shared_gradients(optimizer: DOTSGD) -> tuple[list[Tensor], list[Tensor]]:
    """Return the task's and the distillation's gradients where there are both."""
    away = optimizer.distill_grads
    shared = [p for p in optimizer.params if p.grad is not None and p in away]
    return [p.grad for p in shared], [away[p] for p in shared]  # type: ignore[misc]


def _stand_in(grad: Tensor) -> Tensor:
    """Return a tensor without memory of its own that has this gradient."""
    alias = grad.detach()
    alias.grad = grad
    return alias
