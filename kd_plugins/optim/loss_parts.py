"""Which part of a total loss is the task's and which the distillation's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import Tensor, nn

#: kd_plugins and mmrazor return ``distill.*``, mmdet's LD head ``loss_ld``.
DISTILL_KEYS = ('distill.*', 'loss_ld')


class LossParts(NamedTuple):
    """The two summands of a total loss; None where a step has no such loss."""

    task: Tensor | None
    distill: Tensor | None


def parts_of(total: Tensor) -> LossParts:
    """Return the parts of a total that :class:`SplitLosses` has returned.

    Raises:
        RuntimeError: If the total comes from elsewhere.
    """
    parts = getattr(total, 'loss_parts', None)
    if parts is None:
        raise RuntimeError(
            'DOTOptimWrapper got a loss that does not know its task and distillation parts: pass '
            "what the model's parse_losses returned, after optim_wrapper.initialize_count_status("
            'model, init_counts, max_counts), which the Runner calls by itself.'
        )
    return parts


class SplitLosses:
    """Stands in for a model's ``parse_losses``; its total remembers the parts.

    The total is the tensor that the model returned, with the two parts as its
    attribute ``loss_parts``; other optimizer wrappers see no difference. The
    parts are logged as ``task_loss`` and ``distill_loss``.

    Args:
        model: The model whose ``parse_losses`` does the adding up.
        distill_keys: Patterns, as in file names (``*``, ``?``), of the keys of
            distillation losses; every other loss is the task's. Each must
            match a loss. Defaults to :data:`DISTILL_KEYS`, of which one must.

    Raises:
        ValueError: In the first step, if a pattern matches no loss, or if
            either part is empty.
    """

    def __init__(self, model: nn.Module, distill_keys: Sequence[str] | None = None) -> None:
        bound = vars(model).get('parse_losses')
        self.parse: Callable[..., Any] = (
            bound.parse if isinstance(bound, SplitLosses) else model.parse_losses  # type: ignore
        )
        self.model = model
        self.patterns = tuple(DISTILL_KEYS if distill_keys is None else distill_keys)
        self.each_must_match = distill_keys is not None
        self.checked = False

    def __call__(self, losses: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total, which knows its parts, and what to log."""
        total, log_vars = self.parse(losses)
        names = [name for name in losses if 'loss' in name]
        distill = [n for n in names if any(fnmatchcase(n, p) for p in self.patterns)]
        # mmrazor's StopDistillHook: a resumed training may never see distillation.
        stopped = getattr(self.model, 'distillation_stopped', False)
        if not self.checked and not stopped:
            self._check(names, distill)
            self.checked = True
        task = [name for name in names if name not in distill]
        parts = LossParts(_sum(log_vars, task), _sum(log_vars, distill))
        total.loss_parts = parts
        # The distillation's backward pass keeps the graph of the task's; what is
        # logged outlives the step and would keep what the task's does not free.
        logged = {name: value.detach() for name, value in log_vars.items()}
        for name, part in (('task_loss', parts.task), ('distill_loss', parts.distill)):
            if part is not None:
                logged[name] = part.detach()
        return total, logged

    def _check(self, names: list[str], distill: list[str]) -> None:
        key = 'optim_wrapper.distill_keys'
        for pattern in self.patterns if self.each_must_match else ():
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(
                    f'{key}: the pattern {pattern!r} matches none of the losses {names}: name '
                    'distillation losses of this model, for example "distill.*" or "loss_ld".'
                )
        if not distill:
            raise ValueError(
                f'{key}={self.patterns!r} finds no distillation loss among {names}: give the keys '
                'of those that are one, or train without kd_plugins.DOTOptimWrapper.'
            )
        if len(distill) == len(names):
            raise ValueError(
                f'{key}={self.patterns!r} takes all of {names} for distillation losses and leaves '
                'none to the task: DOT needs both, so match fewer, or train without it.'
            )


def _sum(log_vars: Mapping[str, Tensor], names: Sequence[str]) -> Tensor | None:
    return sum(log_vars[name] for name in names) if names else None  # type: ignore[return-value]
