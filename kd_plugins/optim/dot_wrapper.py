"""The optimizer wrapper that trains any model with DOT."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner.amp import autocast
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, Optimizer

from kd_plugins.compat import allow_two_backward_passes
from kd_plugins.optim import two_gradients
from kd_plugins.optim.dot_sgd import DOTSGD
from kd_plugins.optim.loss_parts import LossParts, SplitLosses, parts_of
from kd_plugins.optim.precision import as_dtype, build_scaler
from kd_plugins.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class DOTOptimWrapper(OptimWrapper):
    """Distillation-oriented training: a momentum for each of the two losses.

    It takes the place of ``OptimWrapper`` around an ordinary SGD::

        optim_wrapper = dict(
            type='kd_plugins.DOTOptimWrapper',
            optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4),
            delta=0.075,
        )

    and works with any model whose ``parse_losses`` gets the distillation losses
    under names of their own. One forward pass and two backward passes give the
    gradients of :class:`DOTSGD`. Parameter schedulers, ``paramwise_cfg``,
    gradient accumulation, clipping and checkpointing work as with SGD.

    Under ``DistributedDataParallel`` both sets are averaged over the ranks here,
    once per update: its own reduction leaves out a second backward pass.

    Args:
        optimizer: An ``SGD``, whose groups a :class:`DOTSGD` takes over, or one.
        delta: Half the distance of the two momenta, see :class:`DOTSGD`.
        distill_keys: Patterns of the keys of distillation losses, such as
            ``['distill.*']``; see :class:`SplitLosses`. Defaults to those of
            kd_plugins, mmrazor and mmdet's LD head.
        dtype: Mixed precision: ``'float16'`` or ``'bfloat16'``; None for none.
        loss_scale: ``'dynamic'``, a number, or settings of the device's
            ``GradScaler``; None for ``'dynamic'`` with float16 and no scaling
            otherwise. One scaler scales both losses, and a step with a
            gradient in either set that is not finite is skipped, warned about,
            and counted in the log as ``skipped_steps``.
        accumulative_counts, clip_grad: As in ``OptimWrapper``. What is clipped
            is the sum of both gradients; both are then scaled alike.

    Raises:
        TypeError: If the optimizer is not SGD, or the model is wrapped in
            something that shards or reduces gradients by itself.
        ValueError: If delta takes a momentum out of [0, 1), SGD has Nesterov
            momentum, DDP broadcasts buffers, or the precision is not available.
    """

    optimizer: DOTSGD

    def __init__(
        self,
        optimizer: Optimizer,
        delta: float,
        distill_keys: Sequence[str] | None = None,
        dtype: str | torch.dtype | None = None,
        loss_scale: str | float | Mapping[str, Any] | None = None,
        accumulative_counts: int = 1,
        clip_grad: dict | None = None,
    ) -> None:
        super().__init__(_as_dot(optimizer, delta), accumulative_counts, clip_grad)
        if isinstance(distill_keys, str) or (distill_keys is not None and not distill_keys):
            raise ValueError(
                f'optim_wrapper.distill_keys={distill_keys!r} is not a list of patterns: write '
                "for example distill_keys=['distill.*']."
            )
        self.distill_keys = distill_keys
        self.cast_dtype = as_dtype(dtype)
        if loss_scale is None and self.cast_dtype is torch.float16:
            loss_scale = 'dynamic'
        self._static_scale = float(loss_scale) if isinstance(loss_scale, (int, float)) else None
        self.loss_scaler: Any = None if loss_scale is None else build_scaler(loss_scale)
        #: Set it to log the cosine of both gradients of the next update once.
        self.cosine_wanted = False
        self.skipped_steps = 0
        self._both = two_gradients.BothGradients(self.optimizer)
        self._process_group: Any = None
        self._distributed = False

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Bind to the model's ``parse_losses``, beside what upstream does here."""
        super().initialize_count_status(model, init_counts, max_counts)
        self._distributed = isinstance(model, DistributedDataParallel)
        if isinstance(model, DistributedDataParallel):
            _check_ddp(model)
            self._process_group = model.process_group
            # DDP's search serves its own reduction, which is off. It ties all losses
            # together, so that each would reach parameters of the other with zeros.
            model.find_unused_parameters = False
            model = model.module
        elif is_model_wrapper(model):
            raise TypeError(
                f'optim_wrapper.type=kd_plugins.DOTOptimWrapper cannot train a model inside '
                f'{type(model).__name__}, which keeps or reduces gradients in its own way: use '
                "model_wrapper_cfg=dict(type='MMDistributedDataParallel', broadcast_buffers=False)."
            )
        allow_two_backward_passes()
        model.parse_losses = SplitLosses(model, self.distill_keys)  # type: ignore[assignment]

    def should_sync(self) -> bool:
        """Never let DDP reduce: it would leave out the second backward pass."""
        return False

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enter mixed precision, and keep DDP from reducing."""
        precision = nullcontext() if self.cast_dtype is None else autocast(dtype=self.cast_dtype)
        with super().optim_context(model), precision:
            yield

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Divide the total and its parts by the number of accumulated steps."""
        scale = super().scale_loss
        parts = [None if part is None else scale(part) for part in parts_of(loss)]
        scaled = scale(loss)
        scaled.loss_parts = LossParts(*parts)  # type: ignore[attr-defined]
        return scaled

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Add to both sets of gradients.

        Plain backward passes, since ``torch.autograd.grad`` silently finds no
        gradient behind reentrant checkpointing. Every rank runs both in every
        step: batch normalisation over ranks communicates in them.
        """
        task, distill = parts_of(loss)
        with self.optimizer.distillation():
            self._backward(distill, **{**kwargs, 'retain_graph': True})
        self._backward(task, **kwargs)
        self._inner_count += 1

    def _backward(self, loss: Tensor | None, **kwargs: Any) -> None:
        if loss is None or not loss.requires_grad:
            return
        if self.loss_scaler is not None:
            loss = self.loss_scaler.scale(loss)
        loss.backward(**kwargs)

    def step(self, **kwargs: Any) -> None:
        """Reduce, unscale and clip both sets, then step."""
        if self._distributed:
            two_gradients.average_over_ranks(self.optimizer, self._process_group)
        if self.loss_scaler is not None:
            self.loss_scaler.unscale_(self._both)
        if self.cosine_wanted:
            self._publish_cosine()
        if self.clip_grad_kwargs:
            self._clip_grad()
        if self.loss_scaler is None:
            self.optimizer.step(**kwargs)
            return
        self._both.stepped = False
        self.loss_scaler.step(self._both, **kwargs)
        if not self._both.stepped:
            self._report_skipped()
        self.loss_scaler.update(self._static_scale)

    def _clip_grad(self) -> None:
        norm = two_gradients.clip(self.optimizer, self.clip_func, self.clip_grad_kwargs)
        if norm is not None:
            self.message_hub.update_scalar(f'train/{self.grad_name}', float(norm))

    def _publish_cosine(self) -> None:
        self.cosine_wanted = False
        cosine = two_gradients.cosine(self.optimizer)
        if cosine is not None:
            self.message_hub.update_scalar('train/grad_cosine', cosine)

    def _report_skipped(self) -> None:
        self.skipped_steps += 1
        self.message_hub.update_scalar('train/skipped_steps', self.skipped_steps)
        print_log(
            'DOTOptimWrapper skipped a step: a gradient of the task or of the distillation loss is '
            f'not finite at loss scale {self.loss_scaler.get_scale():g} '
            f'({self.skipped_steps} skipped so far).',
            logger='current',
            level=logging.WARNING,
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> DOTOptimWrapper:
        """Copy everything but the processes, which copies share."""
        clone = type(self).__new__(type(self))
        memo[id(self)] = clone
        memo[id(self._process_group)] = self._process_group
        clone.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return clone

    def state_dict(self) -> dict:
        """Return the optimizer's state, and the loss scaler's."""
        state = super().state_dict()
        if self.loss_scaler is not None:
            state['loss_scaler'] = self.loss_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        """Load both; a checkpoint of another precision lacks the scaler's."""
        scaler = state_dict.pop('loss_scaler', None)
        if self.loss_scaler is not None and scaler:
            self.loss_scaler.load_state_dict(scaler)
        super().load_state_dict(state_dict)


def _as_dot(optimizer: Optimizer, delta: float) -> DOTSGD:
    if type(optimizer) is SGD:
        return DOTSGD.from_sgd(optimizer, delta)
    if not isinstance(optimizer, DOTSGD):
        raise TypeError(
            f'optim_wrapper.optimizer.type={type(optimizer).__name__!r} has no momentum that DOT '
            "could take apart: it is defined for type='SGD' only; give a recipe that trains with "
            'SGD, or another method.'
        )
    if optimizer.defaults['delta'] != delta:
        raise ValueError(
            f'optim_wrapper.delta={delta!r} is not the optimizer.delta='
            f"{optimizer.defaults['delta']!r} beside it: give the same, or type='SGD' without."
        )
    return optimizer


def _check_ddp(model: DistributedDataParallel) -> None:
    if model.broadcast_buffers:
        raise ValueError(
            'model_wrapper_cfg.broadcast_buffers=True (the default of MMDistributedDataParallel) '
            'would silently stop after the first step, because DOT reduces gradients itself: write '
            "model_wrapper_cfg=dict(type='MMDistributedDataParallel', broadcast_buffers=False), or "
            'leave model_wrapper_cfg out, which means that.'
        )
    if model.static_graph:
        raise ValueError(
            'model_wrapper_cfg.static_graph=True makes DistributedDataParallel reduce by itself, '
            'and DOT does that: leave it out.'
        )
